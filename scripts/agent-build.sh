#!/bin/sh
# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Builds muster-agent for each architecture that Muster hands out, into the folder that the first argument names, with
# the linker's flags of the second. Instances fetch it at boot, and images are small: it must stay below 10 MB.
set -eu
cd "$(dirname "$0")/.."
folder=$1
limit=10000000

mkdir -p "$folder"
for arch in amd64 arm64; do
    file=$folder/muster-agent-linux-$arch
    CGO_ENABLED=0 GOOS=linux GOARCH=$arch ${GO:-go} build -trimpath -ldflags "$2" -o "$file" ./cmd/muster-agent
    size=$(wc -c <"$file")
    if [ "$size" -ge "$limit" ]; then
        echo "agent-build: $file has $size bytes, more than $limit; see what it imports: go list -deps ./cmd/muster-agent" >&2
        exit 1
    fi
done

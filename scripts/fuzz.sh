#!/bin/sh
# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs every fuzz target of the module, one after the other: fuzz.sh [DURATION]
set -eu
cd "$(dirname "$0")/.."
duration=${1:-30s}

git grep -l '^func Fuzz' -- '*_test.go' | while read -r file; do
    package=./$(dirname "$file")
    sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
        echo "fuzz: $package $target"
        # Minimising an interesting input may otherwise take all the time.
        go test -run '^$' -fuzz "^$target\$" -fuzztime "$duration" -fuzzminimizetime 10x "$package" </dev/null
    done
done

# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0

class ExtendedRequest:
    def __init__(self, name, value):
        self.requestName, self.value = name, value

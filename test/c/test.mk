# SPDX-License-Identifier: Apache-2.0
# C tests: each folder brings its own rules and a target test-c-NAME.
include $(wildcard test/c/*/*.mk)

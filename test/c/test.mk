# SPDX-License-Identifier: Apache-2.0
# C tests: each folder brings its own rules, a target test-c-NAME and what that runs, in TEST_BINARIES: all
# of it is built before suites run side by side, which would build it at the same time.
include $(wildcard test/c/*/*.mk) test/net/net.mk

.PHONY: test-binaries
test-binaries: $(sort $(TEST_BINARIES))

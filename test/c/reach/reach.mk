# SPDX-License-Identifier: Apache-2.0
# What is proved of kernels from their PTX, and where the newest content of a span's blocks is, with ASan and UBSan.
REACH_OUT := $(BUILD)/test/reach
REACH_SOURCES := $(wildcard shim/src/ptx*.c) shim/src/reach.c shim/src/reach_cover.c
TEST_BINARIES += $(REACH_OUT)/reach_test $(REACH_OUT)/newest_test

.PHONY: test-c-reach
test-c-reach: $(REACH_OUT)/reach_test $(REACH_OUT)/newest_test
	@$(REACH_OUT)/reach_test
	@$(REACH_OUT)/newest_test

$(REACH_OUT)/reach_test: test/c/reach/reach_test.c $(REACH_SOURCES) $(wildcard shim/src/ptx*.h) shim/src/reach.h \
    test/c/check.h test/c/programs/layers_kernels.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE -Ishim/src -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	  test/c/reach/reach_test.c $(REACH_SOURCES) -o $@

$(REACH_OUT)/newest_test: test/c/reach/newest_test.c shim/src/newest.c $(wildcard shim/src/*.h) test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE -Ishim/src -Ishim/include -Idriver/include -Idriver/blocks \
	  -fsanitize=address,undefined -fno-sanitize-recover=undefined test/c/reach/newest_test.c shim/src/newest.c \
	  -o $@ -pthread

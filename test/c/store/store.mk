# SPDX-License-Identifier: Apache-2.0
# The encrypted store of T3 on a real folder, with io_uring and without; plain, with ASan and UBSan.
STORE_OUT := $(BUILD)/test/store
STORE_SOURCES := shim/src/store.c $(wildcard shim/src/store_*.c)
STORE_HEADERS := shim/src/store.h shim/src/store_part.h shim/src/store_ring.h test/c/check.h
STORE_CFLAGS := -D_GNU_SOURCE -DGB_CUDA_NO_ALIASES -Ishim/src
STORE_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
TEST_BINARIES += $(STORE_OUT)/plain $(STORE_OUT)/asan

.PHONY: test-c-store test-c-store-asan
test-c-store: $(STORE_OUT)/plain
	test/c/store/run.sh $<
test-c-store-asan: $(STORE_OUT)/asan
	test/c/store/run.sh $<

$(STORE_OUT)/plain: test/c/store/store_test.c $(STORE_SOURCES) $(STORE_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(STORE_CFLAGS) $< $(STORE_SOURCES) -o $@ -pthread -ldl

$(STORE_OUT)/asan: test/c/store/store_test.c $(STORE_SOURCES) $(STORE_HEADERS)
	@mkdir -p $(@D)
	nice $(CC) $(CFLAGS_ALL) $(STORE_CFLAGS) $(STORE_ASAN) $< $(STORE_SOURCES) -o $@ -pthread -ldl

# The store's rate beside plain direct reads of the same file; see docs/testing.md.
$(BUILD)/bench/nvme: bench/nvme/nvme.c $(STORE_SOURCES) $(STORE_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(STORE_CFLAGS) $< $(STORE_SOURCES) -o $@ -pthread -ldl

# SPDX-License-Identifier: Apache-2.0
# gb-executor driven over its socket, with RAM alone and on the simulated driver; plain and with ASan and UBSan.
EXECUTOR_TEST := $(BUILD)/test/executor
EXECUTOR_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
EXECUTOR_TESTS := $(addprefix $(EXECUTOR_TEST)/,executor_test ranges_test gb-executor-asan)
TEST_BINARIES += $(EXECUTOR_TESTS)

.PHONY: test-c-executor
test-c-executor: $(EXECUTOR_TESTS) $(BUILD)/bin/gb-executor $(BUILD)/lib/sim/libcuda.so.1
	@sh test/c/executor/run.sh $(BUILD)

$(EXECUTOR_TEST)/executor_test: test/c/executor/executor_test.c driver/executor/gb_exec.h test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE -Idriver/executor $< -o $@ $(LDFLAGS) -pthread

$(EXECUTOR_TEST)/ranges_test: test/c/executor/ranges_test.c driver/executor/ranges.c $(EXECUTOR_HEADERS) test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(EXECUTOR_ASAN) -Idriver/executor $< driver/executor/ranges.c -o $@

$(EXECUTOR_TEST)/gb-executor-asan: $(EXECUTOR_SOURCES) $(EXECUTOR_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(EXECUTOR_ASAN) -fPIE -pie $(EXECUTOR_SOURCES) -o $@ -pthread -ldl

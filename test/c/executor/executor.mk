# SPDX-License-Identifier: Apache-2.0
# gb-executor driven over its socket and over lanes, with RAM alone and on the simulated driver; plain and sanitized.
EXECUTOR_TEST := $(BUILD)/test/executor
EXECUTOR_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
EXECUTOR_TESTS := $(addprefix $(EXECUTOR_TEST)/,executor_test lanes_test pull_test ram_test ranges_test \
  run_test run_images_test run_tracked_test \
  gb-executor-asan gb-executor-tsan cache_test-asan cache_test-tsan)
TEST_BINARIES += $(EXECUTOR_TESTS)

.PHONY: test-c-executor
test-c-executor: $(EXECUTOR_TESTS) $(BUILD)/bin/gb-executor $(BUILD)/lib/sim/libcuda.so.1
	@sh test/c/executor/run.sh $(BUILD)

$(EXECUTOR_TEST)/%_test: test/c/executor/%_test.c $(wildcard test/c/executor/*.h) driver/executor/gb_exec.h \
    test/c/check.h $(BUILD)/obj/lane.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE -Idriver/executor -Idriver/lane $< $(BUILD)/obj/lane.o -o $@ $(LDFLAGS) \
	  -pthread -ldl

$(EXECUTOR_TEST)/ranges_test: test/c/executor/ranges_test.c driver/executor/ranges.c $(EXECUTOR_HEADERS) test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(EXECUTOR_ASAN) -Idriver/executor $< driver/executor/ranges.c -o $@

$(EXECUTOR_TEST)/ram_test: test/c/executor/ram_test.c driver/executor/ram.c driver/executor/ram.h test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Idriver/executor $< driver/executor/ram.c -o $@ -pthread

# The sanitizers see the lane library too; its objects are those of its own tests.
define EXECUTOR_VARIANT
$(EXECUTOR_TEST)/cache_test-$(1): test/c/executor/cache_test.c driver/executor/cache.c driver/executor/cache_disk.c \
    $(EXECUTOR_HEADERS) test/c/check.h $(LANE_SOURCES:driver/lane/%.c=$(BUILD)/test/lane/$(1)/obj/%.o)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $(EXECUTOR_CFLAGS) -Idriver/executor $(2) $$(filter %.c %.o,$$^) -o $$@ \
	  -pthread -ldl
$(EXECUTOR_TEST)/gb-executor-$(1): $(EXECUTOR_SOURCES) $(EXECUTOR_HEADERS) \
    $(LANE_SOURCES:driver/lane/%.c=$(BUILD)/test/lane/$(1)/obj/%.o)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $(EXECUTOR_CFLAGS) $(2) -fPIE -pie $$(filter %.c %.o,$$^) -o $$@ -pthread -ldl
endef
$(eval $(call EXECUTOR_VARIANT,asan,$(EXECUTOR_ASAN)))
$(eval $(call EXECUTOR_VARIANT,tsan,-fsanitize=thread -O1))

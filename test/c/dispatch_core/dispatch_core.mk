# SPDX-License-Identifier: Apache-2.0
# The model program of test/c/core with its launches made on feeders: real executors on simulated GPUs of their own.
DISPATCH_CORE := $(BUILD)/test/dispatch_core
DISPATCH_CORE_BINARIES := $(addprefix $(DISPATCH_CORE)/,agent edges twins.so)
TEST_BINARIES += $(DISPATCH_CORE_BINARIES)

.PHONY: test-c-dispatch-core test-c-dispatch-core-asan test-c-dispatch-core-tsan
test-c-dispatch-core: $(DISPATCH_CORE_BINARIES) $(CORE_PLAIN) $(BUILD)/bin/gb-executor
	test/c/dispatch_core/run.sh plain $(BUILD)/lib/libgreenboost_cuda.so
define DISPATCH_CORE_VARIANT
test-c-dispatch-core-$(1): $(DISPATCH_CORE_BINARIES) $(CORE_OUT)/$(1)/program $(CORE_OUT)/$(1)/libgreenboost_cuda.so \
    $(BUILD)/bin/gb-executor
	test/c/dispatch_core/run.sh $(1) $(CORE_OUT)/$(1)/libgreenboost_cuda.so
endef
$(eval $(call DISPATCH_CORE_VARIANT,asan))
$(eval $(call DISPATCH_CORE_VARIANT,tsan))

$(DISPATCH_CORE)/agent: test/c/dispatch_core/agent.c $(wildcard test/c/executor/*.h) driver/executor/gb_exec.h \
    shim/include/gb_abi.h $(BUILD)/obj/lane.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE -Idriver/executor -Idriver/lane $< $(BUILD)/obj/lane.o -o $@ $(LDFLAGS) \
	  -pthread -ldl

$(DISPATCH_CORE)/edges: test/c/dispatch_core/edges.c test/c/core/check.h $(CORE_SIM)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Idriver/include $< -o $@ -L$(BUILD)/lib/sim -l:libcuda.so.1

# The program's kernels beside those of the shim and of the executor.
$(DISPATCH_CORE)/twins.so: $(SIM_TWINS) test/c/core/kernels.c $(SIM_TWIN_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(SIM_CFLAGS) -Idriver/sim -shared $(LDFLAGS_ALL) -o $@ $(SIM_TWINS) test/c/core/kernels.c

# SPDX-License-Identifier: Apache-2.0
# Memory that programs map themselves, on the simulated driver in strict mode: plain and with ASan.
APPVMM_OUT := $(BUILD)/test/appvmm

.PHONY: test-c-appvmm
APPVMM_NEEDS = $(APPVMM_OUT)/model $(BUILD)/test/soak/kernels.so $(BUILD)/test/soak/usage
APPVMM_NEEDS += $(SHIM_LIB) $(BUILD)/test/core/asan/libgreenboost_cuda.so $(SIM_LIBS)
test-c-appvmm: $(APPVMM_NEEDS)
	@bash test/c/appvmm/run.sh $(BUILD)

$(APPVMM_OUT)/model: test/c/appvmm/model.c test/c/soak/soak.h test/c/core/check.h $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE $< -o $@ $(LDFLAGS) $(BUILD)/lib/sim/libcuda.so.1 -pthread

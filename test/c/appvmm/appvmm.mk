# SPDX-License-Identifier: Apache-2.0
# Memory that programs map themselves, under the shim, on the simulated driver in strict mode: plain and
# with ASan and UBSan.
APPVMM_TEST := $(BUILD)/test/appvmm
APPVMM_PROGRAMS := $(APPVMM_TEST)/model $(APPVMM_TEST)/answers $(APPVMM_TEST)/program \
  $(APPVMM_TEST)/fixed
APPVMM_NEEDS = $(APPVMM_PROGRAMS) $(BUILD)/test/soak/kernels.so $(BUILD)/test/soak/usage $(SIM_LIBS)
TEST_BINARIES += $(APPVMM_PROGRAMS)

.PHONY: test-c-appvmm test-c-appvmm-asan
test-c-appvmm: $(APPVMM_NEEDS) $(SHIM_LIB)
	@bash test/c/appvmm/run.sh $(BUILD) plain
test-c-appvmm-asan: $(APPVMM_NEEDS) $(BUILD)/test/core/asan/libgreenboost_cuda.so
	@bash test/c/appvmm/run.sh $(BUILD) asan

APPVMM_HEADERS := test/c/appvmm/program.h test/c/soak/soak.h test/c/core/check.h
$(APPVMM_PROGRAMS): $(APPVMM_TEST)/%: test/c/appvmm/%.c $(APPVMM_HEADERS) $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE $< -o $@ $(LDFLAGS) $(BUILD)/lib/sim/libcuda.so.1 -pthread

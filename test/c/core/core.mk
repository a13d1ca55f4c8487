# SPDX-License-Identifier: Apache-2.0
# The shim's core against a model, on the simulated driver: plain, with ASan and UBSan, with TSan.
CORE_OUT := $(BUILD)/test/core
CORE_SOURCES := $(wildcard shim/src/*.c driver/lane/*.c) $(BLOCKS_SOURCES)
CORE_HEADERS := $(wildcard shim/src/*.h shim/src/*.def shim/include/*.h driver/lane/*.h test/c/core/*.h) \
  $(BLOCKS_HEADERS)
CORE_CFLAGS := -D_GNU_SOURCE -Idriver/include -idirafter driver/lane -idirafter driver/executor $(BLOCKS_CFLAGS) \
  -Ishim/include
CORE_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
CORE_TSAN := -fsanitize=thread -O1
CORE_SIM := $(BUILD)/lib/sim/libcuda.so.1 $(BUILD)/lib/sim/libgbsim_twins.so
CORE_COMMON := $(CORE_OUT)/kernels.so $(CORE_OUT)/agent $(CORE_SIM)
CORE_PLAIN := $(CORE_OUT)/plain/program $(CORE_OUT)/plain/edges $(BUILD)/lib/libgreenboost_cuda.so
TEST_BINARIES += $(CORE_COMMON) $(CORE_OUT)/unit $(CORE_PLAIN) \
  $(foreach variant,asan tsan,$(addprefix $(CORE_OUT)/$(variant)/,libgreenboost_cuda.so program edges))

.PHONY: test-c-core test-c-core-asan test-c-core-tsan test-c-core-tsan-faults test-c-core-gpu
test-c-core: $(CORE_COMMON) $(CORE_OUT)/unit $(CORE_PLAIN)
	test/c/core/run.sh plain $(BUILD)/lib/libgreenboost_cuda.so
test-c-core-asan: $(CORE_COMMON) $(CORE_OUT)/asan/program $(CORE_OUT)/asan/edges $(CORE_OUT)/asan/libgreenboost_cuda.so
	test/c/core/run.sh asan $(CORE_OUT)/asan/libgreenboost_cuda.so
# TSan in two halves, which run side by side.
CORE_TSAN_BINARIES := $(CORE_OUT)/tsan/program $(CORE_OUT)/tsan/edges $(CORE_OUT)/tsan/libgreenboost_cuda.so
test-c-core-tsan: $(CORE_COMMON) $(CORE_TSAN_BINARIES)
	test/c/core/run.sh tsan $(CORE_OUT)/tsan/libgreenboost_cuda.so tiers feeder nvme
test-c-core-tsan-faults: $(CORE_COMMON) $(CORE_TSAN_BINARIES)
	test/c/core/run.sh tsan $(CORE_OUT)/tsan/libgreenboost_cuda.so faults copies

# Needs a GPU and nvcc; not part of make test.
test-c-core-gpu: $(CORE_COMMON) $(CORE_OUT)/kernels.ptx $(CORE_PLAIN)
	test/c/core/run.sh gpu $(BUILD)/lib/libgreenboost_cuda.so

$(CORE_OUT)/kernels.ptx: test/c/core/kernels.cu
	@mkdir -p $(@D)
	nvcc -ptx -arch=compute_80 $< -o $@

$(CORE_OUT)/kernels.so: test/c/core/kernels.c driver/sim/gbsim_kernel.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Idriver/sim -shared $< -o $@

$(CORE_OUT)/agent: test/c/core/agent.c test/c/core/feeder.c test/c/core/feeder.h shim/include/gb_abi.h $(LANE_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(CORE_CFLAGS) test/c/core/agent.c test/c/core/feeder.c -o $@ -L$(BUILD)/lib -lgreenboost_lane \
	  -Wl,-rpath,'$$ORIGIN/../../lib' -pthread

$(CORE_OUT)/unit: test/c/core/unit.c $(CORE_SOURCES) $(CORE_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(CORE_CFLAGS) $(CORE_ASAN) -DGB_CUDA_NO_ALIASES -Ishim/src $< \
	  shim/src/va.c shim/src/hash.c shim/src/wire.c shim/src/config.c shim/src/victim.c -o $@ -pthread

define CORE_VARIANT
$(CORE_OUT)/$(1)/program: test/c/core/program.c test/c/core/check.h $(CORE_SIM)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $$(CORE_CFLAGS) $(2) $$< -o $$@ -L$(BUILD)/lib/sim -l:libcuda.so.1 -pthread
$(CORE_OUT)/$(1)/edges: test/c/core/edges.c test/c/core/check.h $(CORE_SIM)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $$(CORE_CFLAGS) $(2) $$< -o $$@ -L$(BUILD)/lib/sim -l:libcuda.so.1 -pthread
$(CORE_OUT)/$(1)/libgreenboost_cuda.so: $(CORE_SOURCES) $(CORE_HEADERS) shim/greenboost.map
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $$(CORE_CFLAGS) $(2) -DGB_CUDA_NO_ALIASES -ftls-model=initial-exec -shared \
	  -Wl,-soname,libgreenboost_cuda.so -Wl,-Bsymbolic-functions -Wl,--version-script=shim/greenboost.map \
	  $(CORE_SOURCES) -o $$@ -pthread -ldl
endef
$(eval $(call CORE_VARIANT,plain,))
$(eval $(call CORE_VARIANT,asan,$(CORE_ASAN)))
$(eval $(call CORE_VARIANT,tsan,$(CORE_TSAN)))

# SPDX-License-Identifier: Apache-2.0
# Endurance on the simulated driver in strict mode: SOAK_SECONDS (60; 1800 for the full one).
SOAK_OUT := $(BUILD)/test/soak
SOAK_PROGRAMS := $(SOAK_OUT)/soak $(SOAK_OUT)/lost_update $(SOAK_OUT)/waits $(SOAK_OUT)/usage
SOAK_CFLAGS := $(CFLAGS_ALL) -D_GNU_SOURCE

SOAK_ALL := $(SOAK_PROGRAMS) $(SOAK_OUT)/kernels.so $(SOAK_OUT)/forgetful.so $(SIM_LIBS)
TEST_BINARIES += $(SOAK_ALL)

.PHONY: test-soak test-soak-tsan
test-soak: $(SOAK_ALL) $(BUILD)/lib/libgreenboost_cuda.so
	@test/c/soak/run.sh $(BUILD)
test-soak-tsan: $(SOAK_ALL) $(BUILD)/test/core/tsan/libgreenboost_cuda.so
	@test/c/soak/run.sh $(BUILD) tsan

$(SOAK_PROGRAMS): $(SOAK_OUT)/%: test/c/soak/%.c test/c/soak/soak.h test/c/core/check.h $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(SOAK_CFLAGS) -o $@ $< -L$(BUILD)/lib/sim -l:libcuda.so.1 -pthread

$(SOAK_OUT)/kernels.so: test/c/soak/kernels.c driver/sim/gbsim_kernel.h
	@mkdir -p $(@D)
	$(CC) $(SOAK_CFLAGS) -Idriver/sim -shared -o $@ $<

# The twins as they are, but for the hash of frames.
$(SOAK_OUT)/forgetful.so: test/c/soak/forgetful.c $(SIM_TWINS) $(SIM_TWIN_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(SOAK_CFLAGS) -Wno-missing-prototypes -Idriver/sim -c -o $(SOAK_OUT)/frame_kernels.o \
	  driver/sim/twins/frame_kernels.c
	objcopy --redefine-sym gbsim_kernel_gb_frame_hash=gbsim_true_hash $(SOAK_OUT)/frame_kernels.o
	$(CC) $(SOAK_CFLAGS) -Wno-missing-prototypes -Idriver/sim -shared -o $@ $< \
	  $(filter-out driver/sim/twins/frame_kernels.c,$(SIM_TWINS)) $(SOAK_OUT)/frame_kernels.o

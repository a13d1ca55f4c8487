# SPDX-License-Identifier: Apache-2.0
# Tests of the simulated driver, and of our cuda.h against the toolkit's where there is one.
SIM_TEST_OUT := $(BUILD)/test/sim
SIM_TEST_NAMES := memory_test stream_test proc_test remap_test
SIM_TESTS := $(SIM_TEST_NAMES:%=$(SIM_TEST_OUT)/%)
SIM_TEST_CFLAGS := $(filter-out -Wmissing-prototypes,$(CFLAGS_ALL)) -D_GNU_SOURCE -pthread \
  -Idriver/sim
SIM_TEST_HEADERS := test/c/sim/common.h test/c/check.h test/c/programs/kernels.h
SIM_TEST_MODULES := $(SIM_TEST_OUT)/kernels.so $(SIM_TEST_OUT)/broken_twins.so
TEST_BINARIES += $(SIM_TESTS) $(SIM_TEST_MODULES) $(SIM_TEST_OUT)/frame_kernels
SIM_TOOLKIT := $(firstword $(CUDA_HOME) /usr/local/cuda)/include

.PHONY: test-c-sim test-c-header
test-c-sim: $(SIM_TESTS) $(SIM_TEST_OUT)/frame_kernels $(SIM_TEST_MODULES) $(SIM_LIBS) $(PROGRAMS) test-c-header
	@test/c/sim/run.sh $(BUILD) $(SIM_TESTS)

$(SIM_TEST_OUT)/%_test: test/c/sim/%_test.c $(SIM_TEST_HEADERS) $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(SIM_TEST_CFLAGS) -o $@ $< -L$(BUILD)/lib/sim -lcuda -ldl -pthread

$(SIM_TEST_OUT)/kernels.so: test/c/sim/kernels.c driver/sim/gbsim_kernel.h
	@mkdir -p $(@D)
	$(CC) $(SIM_TEST_CFLAGS) -shared -o $@ $<

# The twins with one kernel that leaves a word out: gb_workset must see it.
$(SIM_TEST_OUT)/broken_twins.so: test/c/sim/broken.c driver/sim/twins/workset.c \
    driver/sim/twins/basic.c driver/sim/gbsim_kernel.h
	@mkdir -p $(@D)
	$(CC) $(SIM_TEST_CFLAGS) -c -o $(SIM_TEST_OUT)/workset.o driver/sim/twins/workset.c
	objcopy --redefine-sym gbsim_kernel_gb_update=gbsim_whole_update $(SIM_TEST_OUT)/workset.o
	$(CC) $(SIM_TEST_CFLAGS) -shared -o $@ $< driver/sim/twins/basic.c $(SIM_TEST_OUT)/workset.o

# Prototypes and layouts by compiling with the toolkit's header, values by printing them with both.
test-c-header: test/c/sim/header_test.c $(SIM_HEADERS)
	@mkdir -p $(SIM_TEST_OUT)
	@if [ -e $(SIM_TOOLKIT)/cuda.h ]; then set -e; cd $(SIM_TEST_OUT); here=$(CURDIR); \
	  $(CC) -std=gnu11 -w -I$(SIM_TOOLKIT) -I$$here/driver/include -c -o header.o $$here/$<; \
	  $$here/test/c/sim/values.sh $$here/driver/include/gb_cuda > values.c; \
	  $(CC) -std=gnu11 -w -I$$here/driver/include -o values_ours values.c; \
	  $(CC) -std=gnu11 -w -I$(SIM_TOOLKIT) -o values_theirs values.c; \
	  ./values_ours > ours.txt; ./values_theirs > theirs.txt; cmp ours.txt theirs.txt; \
	  echo "cuda.h: prototypes, layouts and $$(wc -l < ours.txt) values are the toolkit's"; \
	else echo "cuda.h: not compared, there is no CUDA toolkit at $(SIM_TOOLKIT)"; fi

# The same program that checks the staging engine's kernels on a GPU: here it checks their twins.
$(SIM_TEST_OUT)/frame_kernels: test/gpu/programs/frame_kernels.c shim/src/frame_kernels.c \
    shim/src/frame_kernels.h $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(SIM_TEST_CFLAGS) -o $@ test/gpu/programs/frame_kernels.c shim/src/frame_kernels.c \
	  -L$(BUILD)/lib/sim -lcuda -ldl -pthread

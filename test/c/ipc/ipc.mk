# SPDX-License-Identifier: Apache-2.0
# CUDA IPC between two processes under the shim, on the simulated driver in strict mode: plain and with
# ASan and UBSan.
IPC_TEST := $(BUILD)/test/ipc
IPC_PROGRAMS := $(IPC_TEST)/sharing $(IPC_TEST)/trouble
TEST_BINARIES += $(IPC_PROGRAMS)

.PHONY: test-c-ipc
IPC_NEEDS = $(IPC_PROGRAMS) $(BUILD)/test/soak/kernels.so $(BUILD)/test/soak/usage
IPC_NEEDS += $(SHIM_LIB) $(CORE_OUT)/asan/libgreenboost_cuda.so $(SIM_LIBS)
test-c-ipc: $(IPC_NEEDS)
	@bash test/c/ipc/run.sh $(BUILD)

IPC_HEADERS := $(wildcard test/c/ipc/*.h) test/c/soak/soak.h test/c/core/check.h
$(IPC_PROGRAMS): $(IPC_TEST)/%: test/c/ipc/%.c $(IPC_HEADERS) $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE $< -o $@ $(LDFLAGS) $(BUILD)/lib/sim/libcuda.so.1 -pthread

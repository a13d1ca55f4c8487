# SPDX-License-Identifier: Apache-2.0
# What the wrappers promise a program, on the simulated driver under the shim.
HOOKS_TEST := $(BUILD)/test/hooks
TEST_BINARIES += $(HOOKS_TEST)/hooks_program

.PHONY: test-c-hooks
test-c-hooks: $(HOOKS_TEST)/hooks_program $(SHIM_LIB) $(BUILD)/lib/sim/libcuda.so.1
	@sh test/c/hooks/run.sh $(BUILD)

$(HOOKS_TEST)/hooks_program: test/c/hooks/hooks_program.c test/c/programs/kernels.h $(BUILD)/lib/sim/libcuda.so.1
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $< -o $@ $(LDFLAGS) $(BUILD)/lib/sim/libcuda.so.1 -ldl -pthread

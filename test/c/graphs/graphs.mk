# SPDX-License-Identifier: Apache-2.0
# Graphs that run in pieces, on the simulated driver under the shim: plain and with ASan and UBSan.
GRAPHS_TEST := $(BUILD)/test/graphs
TEST_BINARIES += $(GRAPHS_TEST)/whole_program

.PHONY: test-c-graphs
GRAPHS_NEEDS = $(GRAPHS_TEST)/whole_program $(BUILD)/bin/gb_graphs
GRAPHS_NEEDS += $(SHIM_LIB) $(CORE_OUT)/asan/libgreenboost_cuda.so $(SIM_LIBS)
test-c-graphs: $(GRAPHS_NEEDS)
	@bash test/c/graphs/run.sh $(BUILD)

GRAPHS_HEADERS := test/c/check.h $(wildcard test/c/programs/*.h)
$(GRAPHS_TEST)/whole_program: test/c/graphs/whole_program.c $(GRAPHS_HEADERS) $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $< -o $@ $(LDFLAGS) $(BUILD)/lib/sim/libcuda.so.1 -ldl -pthread

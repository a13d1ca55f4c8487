# SPDX-License-Identifier: Apache-2.0
# Changed blocks on the simulated driver: a model, edges, a driver that fails; plain, with ASan and UBSan. With a
# toolkit, its assembler takes the kernels for every generation it knows.
BLOCKS_TEST := $(BUILD)/test/blocks
BLOCKS_PROGRAMS := model_test edges_test failures_test text_test
BLOCKS_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
TEST_BINARIES += $(foreach variant,plain asan,$(BLOCKS_PROGRAMS:%=$(BLOCKS_TEST)/$(variant)/%)) $(SIM_LIBS)

.PHONY: test-c-blocks test-c-blocks-asan
test-c-blocks: $(BLOCKS_PROGRAMS:%=$(BLOCKS_TEST)/plain/%) $(SIM_LIBS)
	@test/c/blocks/run.sh $(BUILD) plain
test-c-blocks-asan: $(BLOCKS_PROGRAMS:%=$(BLOCKS_TEST)/asan/%) $(SIM_LIBS)
	@test/c/blocks/run.sh $(BUILD) asan

define BLOCKS_VARIANT
$(BLOCKS_TEST)/$(1)/%: test/c/blocks/%.c test/c/blocks/harness.h test/c/check.h $(BLOCKS_SOURCES) \
    $(BLOCKS_HEADERS) $(SIM_LIBS)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $(BLOCKS_CFLAGS) $(2) $$< $(BLOCKS_SOURCES) -o $$@ \
	  -L$(BUILD)/lib/sim -l:libcuda.so.1 -pthread
endef
$(eval $(call BLOCKS_VARIANT,plain,))
$(eval $(call BLOCKS_VARIANT,asan,$(BLOCKS_ASAN)))

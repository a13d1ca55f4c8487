# SPDX-License-Identifier: Apache-2.0
# gb-executor: holds lent memory, one process per attachment. Needs no CUDA to build and none to lend RAM.
EXECUTOR_SOURCES := $(addprefix driver/executor/,main.c service.c memory.c ranges.c frame.c driver.c probe.c)
EXECUTOR_HEADERS := $(wildcard driver/executor/*.h driver/include/*.h driver/include/gb_cuda/*)
NATIVES += $(BUILD)/bin/gb-executor

$(BUILD)/bin/gb-executor: $(EXECUTOR_SOURCES) $(EXECUTOR_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -fPIE -pie $(EXECUTOR_SOURCES) -o $@ $(LDFLAGS_ALL) -pthread -ldl

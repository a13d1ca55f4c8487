# SPDX-License-Identifier: Apache-2.0
# gb-executor: holds lent memory, one process per attachment. Needs no CUDA to build and none to lend RAM.
EXECUTOR_SOURCES := $(addprefix driver/executor/,main.c service.c store.c memory.c ranges.c \
  frame.c driver.c probe.c lanes.c backing.c ahead.c buffers.c pull.c)
EXECUTOR_HEADERS := $(wildcard driver/executor/*.h driver/lane/lane.h driver/include/*.h driver/include/gb_cuda/*)
EXECUTOR_CFLAGS := -Idriver/lane
NATIVES += $(BUILD)/bin/gb-executor

$(BUILD)/bin/gb-executor: $(EXECUTOR_SOURCES) $(EXECUTOR_HEADERS) $(BUILD)/obj/lane.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(EXECUTOR_CFLAGS) -fPIE -pie $(EXECUTOR_SOURCES) $(BUILD)/obj/lane.o -o $@ $(LDFLAGS_ALL) -pthread -ldl

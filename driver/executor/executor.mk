# SPDX-License-Identifier: Apache-2.0
# gb-executor: holds lent memory, one process per attachment. Needs no CUDA to build and none to lend RAM.
EXECUTOR_SOURCES := $(addprefix driver/executor/,main.c service.c store.c memory.c ram.c ranges.c \
  frame.c driver.c probe.c lanes.c backing.c ahead.c buffers.c pull.c cache.c \
  cache_disk.c run.c run_answers.c run_watch.c run_batch.c run_commands.c run_marks.c run_ranges.c run_tracked.c \
  images.c) $(BLOCKS_SOURCES)
EXECUTOR_HEADERS := $(wildcard driver/executor/*.h driver/lane/lane.h driver/include/*.h driver/include/gb_cuda/*) \
  $(BLOCKS_HEADERS)
EXECUTOR_CFLAGS := -Idriver/lane $(BLOCKS_CFLAGS)
# Object by object: the block cache uses what lanes are sealed with.
EXECUTOR_LANE := $(patsubst driver/lane/%.c,$(BUILD)/obj/lane/%.o,$(wildcard driver/lane/*.c))
NATIVES += $(BUILD)/bin/gb-executor

$(BUILD)/bin/gb-executor: $(EXECUTOR_SOURCES) $(EXECUTOR_HEADERS) $(EXECUTOR_LANE)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(EXECUTOR_CFLAGS) -fPIE -pie $(EXECUTOR_SOURCES) $(EXECUTOR_LANE) -o $@ \
	  $(LDFLAGS_ALL) -pthread -ldl

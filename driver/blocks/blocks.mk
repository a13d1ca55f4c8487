# SPDX-License-Identifier: Apache-2.0
# Changed blocks of device memory: compiled into the shim and into the executor, which link BLOCKS_OBJECTS.
BLOCKS_SOURCES := $(addprefix driver/blocks/,blocks.c blocks_pass.c blocks_kernels.c)
BLOCKS_HEADERS := $(wildcard driver/blocks/*.h)
BLOCKS_OBJECTS := $(BLOCKS_SOURCES:driver/blocks/%.c=$(BUILD)/obj/blocks/%.o)
BLOCKS_CFLAGS := -Idriver/blocks

$(BUILD)/obj/blocks/%.o: driver/blocks/%.c driver/blocks/blocks.mk
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(BLOCKS_CFLAGS) -MMD -MP -c $< -o $@

-include $(BLOCKS_OBJECTS:.o=.d)

# SPDX-License-Identifier: Apache-2.0
# The shim: one preloadable library, needing nothing but the C library. It never links libcuda.
SHIM_LIB := $(BUILD)/lib/libgreenboost_cuda.so
SHIM_SOURCES := $(wildcard shim/src/*.c)
SHIM_OBJECTS := $(SHIM_SOURCES:shim/src/%.c=$(BUILD)/obj/shim/%.o)
# Initial-exec thread locals: the launch path reads one counter and must not ask the loader for it.
SHIM_CFLAGS := -D_GNU_SOURCE -Idriver/lane -Idriver/executor $(BLOCKS_CFLAGS) -DGB_CUDA_NO_ALIASES \
  -ftls-model=initial-exec

NATIVES += $(SHIM_LIB) $(BUILD)/bin/gb-probe

$(BUILD)/obj/shim/%.o: shim/src/%.c shim/shim.mk
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(SHIM_CFLAGS) -MMD -MP -c $< -o $@

# Lanes come as one object of the lane library's, whose names stay inside.
$(SHIM_LIB): $(SHIM_OBJECTS) $(BLOCKS_OBJECTS) $(BUILD)/obj/lane.o shim/greenboost.map
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,libgreenboost_cuda.so -Wl,-Bsymbolic-functions \
	  -Wl,--version-script=shim/greenboost.map $(LDFLAGS_ALL) $(SHIM_OBJECTS) $(BLOCKS_OBJECTS) $(BUILD)/obj/lane.o \
	  -o $@ -pthread -ldl

-include $(SHIM_OBJECTS:.o=.d)

# Tries what may crash a driver; the shim starts it from ../bin beside itself.
$(BUILD)/bin/gb-probe: shim/probe/gb_probe.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $< -o $@ $(LDFLAGS_ALL) -ldl

# SPDX-License-Identifier: Apache-2.0
# Encrypted lanes: a library for koffi, and one object to link into the shim, where all but gb_lane_* is local. Needs
# no cryptographic library to build.
LANE_LIB := $(BUILD)/lib/libgreenboost_lane.so
LANE_OBJECT := $(BUILD)/obj/lane.o
LANE_SOURCES := $(wildcard driver/lane/*.c)
LANE_HEADERS := $(wildcard driver/lane/*.h)
LANE_OBJECTS := $(LANE_SOURCES:driver/lane/%.c=$(BUILD)/obj/lane/%.o)
LANE_CFLAGS := -D_GNU_SOURCE -Idriver/lane
OBJCOPY ?= objcopy

NATIVES += $(LANE_LIB) $(LANE_OBJECT)

$(BUILD)/obj/lane/%.o: driver/lane/%.c driver/lane/lane.mk
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LANE_CFLAGS) -MMD -MP -c $< -o $@

$(LANE_LIB): $(LANE_OBJECTS) driver/lane/lane.map
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,libgreenboost_lane.so -Wl,-Bsymbolic-functions -Wl,--version-script=driver/lane/lane.map \
	  $(LDFLAGS_ALL) $(LANE_OBJECTS) -o $@ -pthread -ldl

$(LANE_OBJECT): $(LANE_OBJECTS)
	$(LD) -r $(LANE_OBJECTS) -o $@
	$(OBJCOPY) --localize-hidden $@

-include $(LANE_OBJECTS:.o=.d)

# Lanes beside plain TCP; see docs/testing.md.
FABRIC_SOURCES := bench/fabric/fabric.c bench/fabric/ends.c test/net/pair.c
$(BUILD)/bench/fabric: $(FABRIC_SOURCES) bench/fabric/ends.h test/net/pair.h driver/lane/lane.h $(LANE_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LANE_CFLAGS) $(FABRIC_SOURCES) -o $@ -L$(BUILD)/lib -lgreenboost_lane \
	  -Wl,-rpath,'$$ORIGIN/../lib' -pthread

# The same beside a GPU: a lane to a gb-executor's RAM and VRAM, and plain copies.
$(BUILD)/bench/fabric-vram: bench/fabric/vram.c $(wildcard test/c/executor/*.h) test/c/check.h \
    driver/executor/gb_exec.h driver/lane/lane.h driver/lane/door.h $(LANE_OBJECT) \
    $(BUILD)/bin/gb-executor $(BUILD)/lib/sim/libcuda.so.1
	@mkdir -p $(@D)
	$(CC) $(filter-out -fPIC,$(CFLAGS_ALL)) $(LANE_CFLAGS) -Idriver/executor $< $(LANE_OBJECT) -o $@ \
	  -L$(BUILD)/lib/sim -lcuda $(LDFLAGS) -pthread -ldl

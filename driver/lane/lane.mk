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

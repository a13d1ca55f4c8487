# SPDX-License-Identifier: Apache-2.0
# Ordinary driver-API programs, for the demo, the end-to-end tests and a real GPU. They name no
# folder of libcuda: LD_LIBRARY_PATH or the system decides which one they get.
PROGRAM_OUT := $(BUILD)/bin
PROGRAM_SOURCES := $(wildcard test/c/programs/gb_*.c)
PROGRAMS := $(PROGRAM_SOURCES:test/c/programs/%.c=$(PROGRAM_OUT)/%)
PROGRAM_CFLAGS := $(filter-out -fPIC,$(CFLAGS_ALL)) -D_GNU_SOURCE -pthread

.PHONY: programs
programs: $(PROGRAMS)
NATIVES += $(PROGRAMS)

$(PROGRAM_OUT)/gb_%: test/c/programs/gb_%.c $(wildcard test/c/programs/*.h) $(SIM_LIBS)
	@mkdir -p $(@D)
	$(CC) $(PROGRAM_CFLAGS) -o $@ $< -L$(BUILD)/lib/sim -lcuda $(LDFLAGS) -pthread

# SPDX-License-Identifier: Apache-2.0
# The natives of packages, a second time: for glibc 2.31 and newer (glibc.h and stat.c say how). `make portable`.
PORTABLE := $(BUILD)/portable
PORTABLE_NATIVES := lib/libgreenboost_cuda.so lib/libgreenboost_lane.so lib/sim/libcuda.so.1 \
  lib/sim/libnvidia-ml.so.1 lib/sim/libgbsim_twins.so bin/gb-executor bin/gb-probe bin/gb_workset
PORTABLE_START := $(PORTABLE)/start/Scrt1.o
PORTABLE_STAT := $(PORTABLE)/start/stat.o
# Until glibc 2.34 threads and dl* were libraries of their own: both are named, though newer ones hold nothing.
PORTABLE_LDFLAGS := -B$(PORTABLE)/start $(PORTABLE_STAT) \
  -Wl,--no-as-needed -l:libpthread.so.0 -l:libdl.so.2 -Wl,--as-needed

# The start of a program asks for the first version of __libc_start_main. With it no constructor of the program itself
# is run, only those of its libraries: our programs have none that matter (test/packages counts them).
$(PORTABLE_START): driver/portable/portable.mk
	@mkdir -p $(@D)
	@$(OBJCOPY) --redefine-sym __libc_start_main=__libc_start_main@GLIBC_2.2.5 \
	  "$$($(CC) -print-file-name=Scrt1.o)" $@

$(PORTABLE_STAT): driver/portable/stat.c driver/portable/portable.mk
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_ALL) -c $< -o $@

.PHONY: portable
portable: $(PORTABLE_START) $(PORTABLE_STAT)
	@$(MAKE) -s BUILD=$(PORTABLE) CFLAGS="-include driver/portable/glibc.h $(CFLAGS)" \
	  LDFLAGS="$(PORTABLE_LDFLAGS) $(LDFLAGS)" $(PORTABLE_NATIVES:%=$(PORTABLE)/%)

# Suites that run side by side find them built.
test-binaries: portable

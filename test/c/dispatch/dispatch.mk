# SPDX-License-Identifier: Apache-2.0
# Code that is kept and queues to executors: the shim with these parts visible, on the simulated driver; plain and TSan.
DISPATCH_OUT := $(BUILD)/test/dispatch
DISPATCH_TSAN := -fsanitize=thread -O1
DISPATCH_NAMES := code run
DISPATCH_SEEN := $(wildcard shim/src/code*.c shim/src/run*.c)
DISPATCH_HEADERS := $(wildcard test/c/dispatch/*.h) test/c/check.h test/c/programs/kernels.h driver/executor/gb_run.h \
  shim/src/code.h shim/src/run.h
DISPATCH_CFLAGS := $(CORE_CFLAGS) -Ishim/src -Idriver/lane -DGB_CUDA_NO_ALIASES
TEST_BINARIES += $(foreach variant,plain tsan,$(DISPATCH_NAMES:%=$(DISPATCH_OUT)/$(variant)/%)) \
  $(DISPATCH_OUT)/module.so

.PHONY: test-c-dispatch test-c-dispatch-tsan
test-c-dispatch: $(DISPATCH_NAMES:%=$(DISPATCH_OUT)/plain/%) $(DISPATCH_OUT)/module.so
	@sh test/c/dispatch/run.sh $(BUILD) plain
test-c-dispatch-tsan: $(DISPATCH_NAMES:%=$(DISPATCH_OUT)/tsan/%) $(DISPATCH_OUT)/module.so
	@sh test/c/dispatch/run.sh $(BUILD) tsan

$(DISPATCH_OUT)/module.so: test/c/sim/kernels.c driver/sim/gbsim_kernel.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Idriver/sim -shared $< -o $@

# The shim as it is, but for what is visible of it.
$(DISPATCH_OUT)/plain/obj/%.o: shim/src/%.c $(CORE_HEADERS) driver/executor/gb_run.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(SHIM_CFLAGS) -fvisibility=default -c $< -o $@

$(DISPATCH_OUT)/plain/libgreenboost_cuda.so: $(DISPATCH_SEEN:shim/src/%.c=$(DISPATCH_OUT)/plain/obj/%.o) \
    $(filter-out $(DISPATCH_SEEN:shim/src/%.c=$(BUILD)/obj/shim/%.o),$(SHIM_OBJECTS)) $(BLOCKS_OBJECTS) $(LANE_OBJECT) \
    test/c/dispatch/exports.map
	$(CC) -shared -Wl,-soname,libgreenboost_cuda.so -Wl,-Bsymbolic-functions \
	  -Wl,--version-script=test/c/dispatch/exports.map $(LDFLAGS_ALL) $(filter %.o,$^) -o $@ -pthread -ldl

$(DISPATCH_OUT)/tsan/libgreenboost_cuda.so: $(CORE_SOURCES) $(CORE_HEADERS) driver/executor/gb_run.h \
    test/c/dispatch/exports.map
	@mkdir -p $(@D)
	nice $(CC) $(CFLAGS_ALL) $(CORE_CFLAGS) $(DISPATCH_TSAN) -fvisibility=default -DGB_CUDA_NO_ALIASES \
	  -ftls-model=initial-exec -shared -Wl,-soname,libgreenboost_cuda.so -Wl,-Bsymbolic-functions \
	  -Wl,--version-script=test/c/dispatch/exports.map $(CORE_SOURCES) -o $@ -pthread -ldl

define DISPATCH_VARIANT
$(DISPATCH_NAMES:%=$(DISPATCH_OUT)/$(1)/%): $(DISPATCH_OUT)/$(1)/%: test/c/dispatch/%_test.c \
    $(wildcard test/c/dispatch/peer*.c) $(DISPATCH_HEADERS) $(DISPATCH_OUT)/$(1)/libgreenboost_cuda.so $(CORE_SIM) \
    $(LANE_SOURCES:driver/lane/%.c=$(BUILD)/test/lane/$(1)/obj/%.o)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $$(DISPATCH_CFLAGS) $(2) $$(filter test/c/dispatch/%.c,$$^) \
	  $$(LANE_SOURCES:driver/lane/%.c=$(BUILD)/test/lane/$(1)/obj/%.o) -o $$@ \
	  $(DISPATCH_OUT)/$(1)/libgreenboost_cuda.so -Wl,-rpath,'$$$$ORIGIN' -pthread -ldl
endef
$(eval $(call DISPATCH_VARIANT,plain,))
$(eval $(call DISPATCH_VARIANT,tsan,$(DISPATCH_TSAN)))

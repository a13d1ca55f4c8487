# SPDX-License-Identifier: Apache-2.0
# Lanes between real processes over real sockets: plain, with ASan, UBSan and leak check, with TSan.
LANE_TEST_OUT := $(BUILD)/test/lane
LANE_TEST_NAMES := wire recorded attack lane trouble door rate offer call call_end
LANE_TEST_HEADERS := $(LANE_HEADERS) test/c/lane/harness.h test/c/lane/callee.h test/c/check.h
LANE_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
LANE_TSAN := -fsanitize=thread -O1
TEST_BINARIES += $(foreach variant,plain asan tsan,$(LANE_TEST_NAMES:%=$(LANE_TEST_OUT)/$(variant)/%))

.PHONY: test-c-lane test-c-lane-asan test-c-lane-tsan
test-c-lane: $(LANE_TEST_NAMES:%=$(LANE_TEST_OUT)/plain/%)
	@sh test/c/lane/run.sh $^
test-c-lane-asan: $(LANE_TEST_NAMES:%=$(LANE_TEST_OUT)/asan/%)
	@sh test/c/lane/run.sh $^
test-c-lane-tsan: $(LANE_TEST_NAMES:%=$(LANE_TEST_OUT)/tsan/%)
	@sh test/c/lane/run.sh $^

define LANE_VARIANT
$(LANE_TEST_OUT)/$(1)/obj/%.o: driver/lane/%.c $(LANE_HEADERS)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $(LANE_CFLAGS) $(2) -c $$< -o $$@
$(LANE_TEST_OUT)/$(1)/obj/%.o: test/c/lane/%.c $(LANE_TEST_HEADERS)
	@mkdir -p $$(@D)
	nice $$(CC) $$(CFLAGS_ALL) $(LANE_CFLAGS) $(2) -c $$< -o $$@
$(LANE_TEST_NAMES:%=$(LANE_TEST_OUT)/$(1)/%): $(LANE_TEST_OUT)/$(1)/%: $(LANE_TEST_OUT)/$(1)/obj/%_test.o \
    $(LANE_TEST_OUT)/$(1)/obj/harness.o $(LANE_TEST_OUT)/$(1)/obj/callee.o \
    $(LANE_SOURCES:driver/lane/%.c=$(LANE_TEST_OUT)/$(1)/obj/%.o)
	$$(CC) $(2) $$^ -o $$@ -pthread -ldl
endef
$(eval $(call LANE_VARIANT,plain,))
$(eval $(call LANE_VARIANT,asan,$(LANE_ASAN)))
$(eval $(call LANE_VARIANT,tsan,$(LANE_TSAN)))

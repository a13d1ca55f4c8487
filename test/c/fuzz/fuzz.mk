# SPDX-License-Identifier: Apache-2.0
# libFuzzer targets for C parsers of bytes from outside: make fuzz-NAME runs one for GB_FUZZ_SECONDS (default 60),
# make test-c-fuzz all of them. A target is one file test/c/fuzz/NAME_fuzz.c and its sources in FUZZ_SOURCES_NAME.
FUZZ_OUT := $(BUILD)/test/fuzz
FUZZ_CC := $(shell for cc in clang clang-19 clang-18 clang-17 clang-16 clang-15; do command -v $$cc && break; done)
FUZZ_FLAGS := -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
FUZZ_NAMES := $(patsubst test/c/fuzz/%_fuzz.c,%,$(wildcard test/c/fuzz/*_fuzz.c))
FUZZ_SOURCES_executor := driver/executor/frame.c driver/executor/ranges.c
FUZZ_SOURCES_shim := $(addprefix shim/src/,client.c request.c wire.c arena.c va.c config.c extents.c moving.c)
FUZZ_FLAGS_shim := -D_GNU_SOURCE -idirafter driver/lane -pthread
FUZZ_SOURCES_lane := $(wildcard driver/lane/crypt*.c driver/lane/link*.c) \
  $(addprefix driver/lane/,keys.c names.c sock.c wire.c)
FUZZ_FLAGS_lane := -D_GNU_SOURCE -DLANE_NO_DEEPBIND -Idriver/lane -pthread
FUZZ_SOURCES_run := $(addprefix driver/executor/,run_batch.c images.c cache.c cache_disk.c) \
  $(filter-out driver/lane/link%.c,$(FUZZ_SOURCES_lane)) driver/lane/digest.c
FUZZ_FLAGS_run := $(FUZZ_FLAGS_lane) -Wno-macro-redefined
GB_FUZZ_SECONDS ?= 60
TEST_BINARIES += $(FUZZ_NAMES:%=$(FUZZ_OUT)/%_fuzz)

.PHONY: test-c-fuzz $(addprefix fuzz-,$(FUZZ_NAMES))
test-c-fuzz:
	@sh test/c/fuzz/run.sh "$(FUZZ_NAMES)"

$(addprefix fuzz-,$(FUZZ_NAMES)): fuzz-%: $(FUZZ_OUT)/%_fuzz
	@mkdir -p $(FUZZ_OUT)/corpus/$* $(FUZZ_OUT)/crashes
	$< -max_total_time=$(GB_FUZZ_SECONDS) -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
	  -artifact_prefix=$(FUZZ_OUT)/crashes/$*- $(FUZZ_OUT)/corpus/$* $(wildcard test/c/fuzz/corpus/$*)

.SECONDEXPANSION:
$(FUZZ_OUT)/%_fuzz: test/c/fuzz/%_fuzz.c $$(FUZZ_SOURCES_$$*)
	@mkdir -p $(@D)
	@test -n "$(FUZZ_CC)" || { echo "fuzzing needs clang: apt-get install clang" >&2; exit 1; }
	$(FUZZ_CC) $(FUZZ_FLAGS) $(FUZZ_FLAGS_$*) -Idriver/include -Idriver/executor -Ishim/include -Ishim/src $^ -o $@

# SPDX-License-Identifier: Apache-2.0
# Everything a person types: make, make demo, make test, make install, make clean. Natives build with a C compiler alone.
CC ?= gcc
BUILD := build
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wmissing-prototypes -Wstrict-prototypes
CFLAGS_ALL := -std=gnu11 -O2 -g -fPIC -fvisibility=hidden -fno-omit-frame-pointer $(WARNINGS) -Idriver/include -Ishim/include $(CFLAGS)
LDFLAGS_ALL := -Wl,-z,relro,-z,now -Wl,-z,defs $(LDFLAGS)
PREFIX ?= /usr/local

.PHONY: all natives js demo test install uninstall clean
all: natives js

NATIVES :=
-include driver/blocks/blocks.mk
-include shim/shim.mk
-include driver/sim/sim.mk
-include driver/executor/executor.mk
-include driver/lane/lane.mk
-include driver/portable/portable.mk
-include test/c/test.mk

natives: $(NATIVES)

node_modules/.package-lock.json: package.json package-lock.json
	npm install --no-save --no-audit --no-fund --loglevel=error
	@touch $@

TS_SOURCES := $(shell find proto security driver feeder host tui -name '*.ts' 2>/dev/null)
js: $(BUILD)/js/.stamp
$(BUILD)/js/.stamp: node_modules/.package-lock.json tsconfig.json $(TS_SOURCES)
	node_modules/.bin/tsc -p tsconfig.json
	@chmod +x $(BUILD)/js/tui/cli/main.js 2>/dev/null || true
	@touch $@

clean:
	rm -rf $(BUILD)

# Some suites: make test SUITES="unit arch". JOBS: how many cores to fill with suites.
JOBS ?= $(shell nproc)
.PHONY: test-tools
test-tools:
	@test/tools.sh
test: test-tools
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@node test/run.mjs --jobs $(JOBS) $(SUITES)

# docs/stopwatch.md: the README on three machines, from a clean clone of HEAD.
.PHONY: stopwatch
stopwatch:
	@mkdir -p $(BUILD)
	@test/stopwatch.sh >$(BUILD)/stopwatch.md && mv $(BUILD)/stopwatch.md docs/stopwatch.md

# The packages on a clean Debian (docs/testing.md).
.PHONY: test-root-trixie test-root-bullseye
test-root-trixie test-root-bullseye: test-root-%:
	@test/packages/clean-root.sh $*

# What commands print, docs/schemas and docs/exit-codes.md, written anew; the difference is yours to look at.
.PHONY: golden
golden: all
	@node test/run.mjs --update commands

# At a release only: records what this version says on the wire, to be decoded for ever after (docs/protocol.md).
.PHONY: protocol-baseline
protocol-baseline: js
	@node_modules/.bin/tsc -p test/vectors/protocol/tsconfig.json
	@node $(BUILD)/recorder/test/vectors/protocol/record.js

# Figures and charts on a real GPU; some only: make bench-gpu BENCHES="torch graphs". Needs no Node.js.
.PHONY: bench-gpu
bench-gpu: natives
	@python3 bench/gpu/run.py $(BENCHES)

# Figures of lanes and what goes over them, one table: make bench-fabric BENCHES="upload shim" OUT=bench/results
.PHONY: bench-fabric
bench-fabric: natives js
	@python3 bench/fabric/run.py $(if $(OUT),--out $(OUT)) $(BENCHES)

# CPU time of a full frame and of an idle cluster screen.
.PHONY: bench-screen
bench-screen: natives js
	@node bench/screen/bench.mjs

# docs/images/*.svg: the cluster screen of a real run on the simulated driver.
.PHONY: screenshots
screenshots: natives js
	@node test/screens/capture.mjs

# Decoding with kernels on a feeder, on a simulated GPU: counts, and times that say nothing of a GPU.
.PHONY: bench-dispatch
bench-dispatch: natives js
	@python3 bench/dispatch/run.py $(BENCHES)

# The command: see it work, install it, take it away again.
.PHONY: tools completions man
tools:
	@command -v node >/dev/null && node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' \
	  || { echo "greenboost needs Node 20.19 or newer with npm: https://nodejs.org/en/download" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo "greenboost needs a C compiler: sudo apt-get install gcc libc6-dev" >&2; exit 1; }

demo: tools all
	@node $(BUILD)/js/tui/cli/main.js demo

install: tools all
	@tui/install/install.sh install "$(PREFIX)" "$(DESTDIR)"

uninstall:
	@tui/install/install.sh uninstall "$(PREFIX)" "$(DESTDIR)"

# Packages with natives for glibc 2.31 and newer, in build/packages (docs/install.md).
.PHONY: deb npm-package
deb: tools js portable
	@tui/install/deb.sh $(BUILD)/packages

npm-package: tools js portable
	@tui/install/npm.sh $(BUILD)/packages

completions: js
	@mkdir -p $(BUILD)/completions
	@for shell in bash zsh fish; do node $(BUILD)/js/tui/cli/main.js completion $$shell >$(BUILD)/completions/greenboost.$$shell; done
	@echo "completions are in $(BUILD)/completions"

man: js
	@rm -rf $(BUILD)/man
	@node $(BUILD)/js/tui/cli/manual.js $(BUILD)/man
	@echo "manual pages are in $(BUILD)/man"

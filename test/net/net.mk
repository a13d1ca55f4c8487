# SPDX-License-Identifier: Apache-2.0
# The delay link that joins network namespaces, and the test of it with plain sockets.
NET_OUT := $(BUILD)/test/net
NET_LINK := $(NET_OUT)/delaylink
NATIVES += $(NET_LINK)
NET_SOURCES := $(addprefix test/net/,delaylink.c wire.c segment.c tun.c)

$(NET_LINK): $(NET_SOURCES) test/net/link.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE $(NET_SOURCES) -o $@ -pthread -lm

$(NET_OUT)/link_test: test/net/link_test.c test/net/pair.c test/net/pair.h test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE test/net/link_test.c test/net/pair.c -o $@ -pthread

TEST_BINARIES += $(NET_OUT)/link_test
.PHONY: test-c-net
test-c-net: $(NET_OUT)/link_test $(NET_LINK)
	@$^

NET_TROUBLE := $(NET_OUT)/libtrouble.so
NATIVES += $(NET_TROUBLE)
$(NET_TROUBLE): test/net/trouble.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -D_GNU_SOURCE -shared $< -o $@ -ldl

# The whole failure matrix, which writes its tables into docs/failures.md (about an hour), and a mixed load with random
# faults for FABRIC_SOAK_SECONDS (120; full: 3600). Both want the machine for themselves.
JEST := NODE_OPTIONS=--experimental-vm-modules node_modules/.bin/jest --runInBand
.PHONY: test-matrix test-fabric-soak test-dispatch-kills
test-matrix: all
	@GB_MATRIX=all $(JEST) test/e2e/failures
test-fabric-soak: all
	@$(JEST) test/soak
# A feeder killed in the middle of decoding, 20 times in a row.
test-dispatch-kills: all
	@GB_DISPATCH_KILLS=20 $(JEST) test/e2e/dispatch-kills

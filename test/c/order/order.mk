# SPDX-License-Identifier: Apache-2.0
# The learned order of touches against a model without an index, with ASan and UBSan.
ORDER_OUT := $(BUILD)/test/order
TEST_BINARIES += $(ORDER_OUT)/order_test $(ORDER_OUT)/period_test

.PHONY: test-c-order
test-c-order: $(ORDER_OUT)/order_test $(ORDER_OUT)/period_test
	@$(ORDER_OUT)/order_test
	@$(ORDER_OUT)/period_test

$(ORDER_OUT)/order_test: test/c/order/order_test.c shim/src/order.c shim/src/order.h test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Ishim/src -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	  test/c/order/order_test.c shim/src/order.c -o $@

$(ORDER_OUT)/period_test: test/c/order/period_test.c shim/src/period.c shim/src/period.h test/c/check.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Ishim/src -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	  test/c/order/period_test.c shim/src/period.c -o $@

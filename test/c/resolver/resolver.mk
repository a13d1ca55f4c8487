# SPDX-License-Identifier: Apache-2.0
# The resolver test. What needs the CUDA runtime is built only where a toolkit is; nothing of it
# is included.
RESOLVER := $(BUILD)/test/resolver
CUDA_TOOLKIT := $(firstword $(CUDA_HOME) /usr/local/cuda)
CUDA_FOLDERS := $(CUDA_TOOLKIT)/lib64 $(CUDA_TOOLKIT)/lib
CUDART_SHARED := $(firstword $(wildcard $(addsuffix /libcudart.so,$(CUDA_FOLDERS))))
CUDART_STATIC := $(firstword $(wildcard $(addsuffix /libcudart_static.a,$(CUDA_FOLDERS))))
RESOLVER_FILES := $(addprefix $(RESOLVER)/,resolve_program silent_program librecord.so libfirst.so \
  libsecond.so foreign/libcuda.so.1 $(if $(CUDART_SHARED),cudart_shared) $(if $(CUDART_STATIC),cudart_static))
TEST_BINARIES += $(RESOLVER_FILES)

.PHONY: test-c-resolver
test-c-resolver: $(RESOLVER_FILES) $(SHIM_LIB) $(BUILD)/lib/sim/libcuda.so.1
	@sh test/c/resolver/run.sh $(BUILD)

$(RESOLVER)/resolve_program: test/c/resolver/resolve_program.c $(BUILD)/lib/sim/libcuda.so.1 \
    $(RESOLVER)/libfirst.so $(RESOLVER)/libsecond.so
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $< -o $@ $(LDFLAGS) -Wl,--no-as-needed -L$(RESOLVER) -lfirst -lsecond \
	  $(BUILD)/lib/sim/libcuda.so.1 -ldl
$(RESOLVER)/silent_program: test/c/resolver/silent_program.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $< -o $@ $(LDFLAGS)
$(RESOLVER)/libfirst.so $(RESOLVER)/libsecond.so: $(RESOLVER)/lib%.so: test/c/resolver/next.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -fvisibility=default -shared -Wl,-soname,lib$*.so $< -o $@ -ldl
$(RESOLVER)/librecord.so: test/c/resolver/record.c shim/src/dlsym.c shim/src/hooks.def
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(SHIM_CFLAGS) -Ishim/src -shared $(LDFLAGS_ALL) \
	  -Wl,--version-script=shim/greenboost.map test/c/resolver/record.c shim/src/dlsym.c -o $@ -ldl
$(RESOLVER)/foreign/libcuda.so.1: test/c/resolver/foreign_driver.c \
    test/c/resolver/foreign_names.c driver/include/gb_cuda/functions.def
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Wno-missing-prototypes -fno-ipa-icf -shared -Wl,-Bsymbolic \
	  -Wl,-soname,libcuda.so.1 $(filter %.c,$^) -o $@
$(RESOLVER)/cudart_shared: test/c/resolver/cudart_program.c $(CUDART_SHARED)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $< -o $@ -L$(dir $(CUDART_SHARED)) -Wl,-rpath,$(dir $(CUDART_SHARED)) \
	  -lcudart -ldl
$(RESOLVER)/cudart_static: test/c/resolver/cudart_program.c $(CUDART_STATIC)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $< -o $@ $(CUDART_STATIC) -ldl -lpthread -lrt

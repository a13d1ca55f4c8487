# SPDX-License-Identifier: Apache-2.0
# The simulated driver: libcuda.so.1, libnvidia-ml.so.1 and the C twins of kernels written in PTX.
SIM_OUT := $(BUILD)/lib/sim
SIM_OBJ := $(BUILD)/obj/sim
SIM_SOURCES := $(filter-out driver/sim/nvml.c,$(wildcard driver/sim/*.c))
SIM_HEADERS := $(wildcard driver/sim/*.h driver/include/*.h driver/include/gb_cuda/*)
SIM_OBJECTS := $(SIM_SOURCES:driver/sim/%.c=$(SIM_OBJ)/%.o)
SIM_TWINS := $(wildcard driver/sim/twins/*.c)
SIM_TWIN_HEADERS := driver/sim/gbsim_kernel.h $(wildcard driver/sim/twins/*.h)
SIM_LIBS := $(SIM_OUT)/libcuda.so.1 $(SIM_OUT)/libnvidia-ml.so.1 $(SIM_OUT)/libgbsim_twins.so
# The stubs have no prototypes by design, and pointers to functions are data here.
SIM_CFLAGS := $(filter-out -Wmissing-prototypes,$(CFLAGS_ALL)) -D_GNU_SOURCE -pthread

.PHONY: sim
sim: $(SIM_LIBS)
NATIVES += $(SIM_LIBS)

$(SIM_OBJ)/%.o: driver/sim/%.c $(SIM_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(SIM_CFLAGS) -c -o $@ $<

# Symbolic: the library's own calls and tables must not be answered by a preloaded interposer.
$(SIM_OUT)/libcuda.so.1: $(SIM_OBJECTS)
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,libcuda.so.1 -Wl,-Bsymbolic $(LDFLAGS_ALL) -o $@ $^ -ldl -pthread -lm
	@ln -sf libcuda.so.1 $(@D)/libcuda.so

$(SIM_OUT)/libnvidia-ml.so.1: $(SIM_OBJ)/nvml.o $(SIM_OBJ)/gpu.o
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,libnvidia-ml.so.1 -Wl,-Bsymbolic $(LDFLAGS_ALL) -o $@ $^ -pthread
	@ln -sf libnvidia-ml.so.1 $(@D)/libnvidia-ml.so

$(SIM_OUT)/libgbsim_twins.so: $(SIM_TWINS) $(SIM_TWIN_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(SIM_CFLAGS) -Idriver/sim -shared $(LDFLAGS_ALL) -o $@ $(SIM_TWINS)

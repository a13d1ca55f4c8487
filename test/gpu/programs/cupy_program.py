# SPDX-License-Identifier: Apache-2.0
"""An unmodified CuPy program: many arrays, element-wise kernels, a raw kernel with a pointer offset, reductions.
The argument: how many rounds (3)."""
import hashlib
import json
import sys

import cupy as cp

COUNT, WORDS, STEPS = 24, 16 << 20, int(sys.argv[1]) if len(sys.argv) > 1 else 3

blend = cp.RawKernel(
    r"""
extern "C" __global__ void blend(unsigned long long *out, const unsigned long long *in, long long n) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
    out[i] = out[i] * 6364136223846793005ull + in[i];
}
""",
    "blend",
)

arrays = [cp.arange(i, i + WORDS, dtype=cp.uint64) for i in range(COUNT)]
half = WORDS // 2
for step in range(STEPS):
    for i in range(COUNT):
        other = arrays[(i * 5 + step + 1) % COUNT]
        blend((264,), (256,), (arrays[i][half:], other, cp.int64(half)))
        arrays[i] ^= other >> cp.uint64(step + 1)
digest = hashlib.sha256()
for array in arrays:
    digest.update(int(array.sum()).to_bytes(8, "little"))
    digest.update(array[::4097].get().tobytes())
print(json.dumps({"sha256": digest.hexdigest(), "arrayBytes": COUNT * WORDS * 8}), flush=True)

# SPDX-License-Identifier: Apache-2.0
"""An unmodified Triton program: an element-wise kernel and a block matrix product in integers over many arrays."""
import hashlib
import json

import torch
import triton
import triton.language as tl

COUNT, WORDS, ROUNDS = 16, 8 << 20, 34


@triton.jit
def mix(target, source, words, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < words
    here = tl.load(target + at, mask=inside)
    there = tl.load(source + at, mask=inside)
    tl.store(target + at, here * 1664525 + (there ^ (there >> 13)) + seed, mask=inside)


@triton.jit
def product(out, left, right, K, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.int32)
    for k in range(0, K, BLOCK):
        inner = k + tl.arange(0, BLOCK)
        a = tl.load(left + row[:, None] * K + inner[None, :])
        b = tl.load(right + inner[:, None] * K + column[None, :])
        total += tl.dot(a, b, out_dtype=tl.int32)
    tl.store(out + row[:, None] * K + column[None, :], total)


arrays = [torch.arange(i, i + WORDS, dtype=torch.int32, device="cuda") for i in range(COUNT)]
size = 1024
out = torch.zeros(size, size, dtype=torch.int32, device="cuda")
for step in range(ROUNDS):
    for i in range(COUNT):
        mix[(triton.cdiv(WORDS, 1024),)](arrays[(i + COUNT // 2) % COUNT], arrays[i], WORDS, step, BLOCK=1024)
    narrow = arrays[step % COUNT].view(torch.int8)
    product[(size // 64, size // 64)](out, narrow, narrow[size * size:], size, BLOCK=64)
    arrays[(step + 3) % COUNT][: size * size] ^= out.flatten()
digest = hashlib.sha256()
for array in arrays:
    digest.update(array[::1021].cpu().numpy().tobytes())
    digest.update(int(array.sum(dtype=torch.int64)).to_bytes(8, "little", signed=True))
print(json.dumps({"sha256": digest.hexdigest()}), flush=True)

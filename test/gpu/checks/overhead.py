# SPDX-License-Identifier: Apache-2.0
"""What the shim costs when everything fits: interleaved pairs of a GPU-bound cuBLAS loop; eager PyTorch beside it."""
import random
import statistics
import sys

import common

PAIRS = 12


def interval(ratios, confidence=0.95, samples=10_000):
    """Median of paired ratios with its bootstrap interval (percentile method, fixed seed)."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(samples))
    low = medians[int((1 - confidence) / 2 * samples)]
    high = medians[int((1 + confidence) / 2 * samples) - 1]
    return {"median": round(statistics.median(ratios), 4), "low": round(low, 4), "high": round(high, 4)}


def paired(command, read, pairs, better_is_smaller):
    """native/shim pairs in alternating order; a ratio of 1 means no cost, below 1 the shim is slower."""
    ratios, rows = [], []
    for index in range(pairs):
        values = {}
        for side in ("native", "shim") if index % 2 == 0 else ("shim", "native"):
            env = common.shim_environment() if side == "shim" else None
            values[side] = read(common.run(command, env)[0])
        ratio = values["native"] / values["shim"] if better_is_smaller else values["shim"] / values["native"]
        ratios.append(ratio)
        rows.append({side: round(value, 3) for side, value in values.items()})
    return {"ratio": interval(ratios), "pairs": rows}


def check():
    program = common.nvcc("gemm_loop.cu", "-lcublas")
    problems, figures = [], {}
    for tokens in (1, 256):
        name = f"cublasLoop{tokens}Tokens"
        figures[name] = paired([program, tokens, 300], float, PAIRS, True)
        figures[name]["unit"] = "microseconds per iteration"
        if figures[name]["ratio"]["median"] < 0.98:
            problems.append(f"{name}: median ratio {figures[name]['ratio']['median']} is below 0.98")
    eager = [sys.executable, common.PROGRAMS / "llama.py", "--layers", 4, "--new-tokens", 48]
    figures["eagerPyTorchDecode"] = paired(eager, lambda r: r["decodeTokensPerSecond"], 3, False)
    figures["eagerPyTorchDecode"]["unit"] = "tokens per second; bound by Python and noisy, shown for orientation"
    return figures, problems

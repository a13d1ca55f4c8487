# SPDX-License-Identifier: Apache-2.0
"""JAX and CuPy, unmodified, at half of the VRAM they take by themselves: the same results."""
import os
import sys

import common
from common import GIB, MIB


def half_peak(name, environment):
    command = [sys.executable, common.PROGRAMS / f"{name}_program.py"]
    native, _, native_seconds = common.run(command, {**os.environ, **environment})
    whole, stats, _ = common.run(command, common.shim_environment(ram=32 * GIB, **environment))
    peak = stats["vramPeakBytes"]
    budget = peak // 2 // (2 * MIB) * (2 * MIB)
    half, half_stats, half_seconds = common.run(
        command, common.shim_environment(vram=budget, ram=32 * GIB, **environment)
    )
    row = {
        "program": name,
        "nativePeakBytes": peak,
        "budgetBytes": budget,
        "vramPeakBytes": half_stats["vramPeakBytes"],
        "ramPeakBytes": half_stats["ramPeakBytes"],
        "nativeSeconds": round(native_seconds, 1),
        "seconds": round(half_seconds, 1),
    }
    problems = []
    if not native == whole == half:
        problems.append(f"{name}: other results than native")
    if half_stats["vramPeakBytes"] > budget:
        problems.append(f"{name}: T1 over the budget")
    if half_stats["ramPeakBytes"] < 0.9 * (peak - budget):
        problems.append(f"{name}: T2 held {half_stats['ramPeakBytes']} of {peak - budget} overflowing bytes")
    return row, problems


def check():
    # XLA times candidate kernels when it compiles; the choice must not depend on where the memory lies.
    jax_env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    rows, problems = [], []
    for name, environment in (("jax", jax_env), ("cupy", {})):
        row, found = half_peak(name, environment)
        rows.append(row)
        problems += found
    return {"runs": rows}, problems

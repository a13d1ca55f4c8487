# SPDX-License-Identifier: Apache-2.0
"""A CUDA C program whose working set is 1.5 and 3 times the VRAM budget: every word right, the rest really in RAM."""
import common
from common import GIB, MIB

BUDGET = 1 * GIB


def check():
    program = common.nvcc("overflow.cu")
    figures, problems = {"budgetBytes": BUDGET, "runs": []}, []
    for factor in (1.0, 1.5, 3.0):
        total = int(BUDGET * factor)
        env = common.shim_environment(vram=BUDGET, ram=8 * GIB)
        result, stats, seconds = common.run([program, total, 64 * MIB, 2], env)
        overflow = max(0, total - BUDGET)
        row = {
            "workingSetBytes": result["bytes"],
            "wrongWords": result["wrongWords"],
            "vramPeakBytes": stats["vramPeakBytes"],
            "ramPeakBytes": stats["ramPeakBytes"],
            "seconds": round(seconds, 2),
        }
        figures["runs"].append(row)
        if stats["vramPeakBytes"] > BUDGET:
            problems.append(f"{factor}x: T1 {stats['vramPeakBytes']} is over the budget")
        if stats["ramPeakBytes"] < 0.9 * overflow:
            problems.append(f"{factor}x: T2 held {stats['ramPeakBytes']} of {overflow} overflowing bytes")
    return figures, problems

# SPDX-License-Identifier: Apache-2.0
"""PyTorch, unmodified: the same tokens whatever the VRAM budget, and the overflow really in RAM."""
import sys

import common
from common import GIB

PROGRAM = [sys.executable, common.PROGRAMS / "llama.py"]


def tier_row(name, result, stats, seconds):
    return {
        "run": name,
        "tokens": result["tokens"],
        "logitsSha256": result["logitsSha256"],
        "decodeTokensPerSecond": result["decodeTokensPerSecond"],
        "prefillSeconds": result["prefillSeconds"],
        "longPrefillSeconds": result.get("longPrefill", {}).get("prefillSeconds"),
        "vramPeakBytes": stats["vramPeakBytes"] if stats else result["reservedPeakBytes"],
        "ramPeakBytes": stats["ramPeakBytes"] if stats else 0,
        "feederPeakBytes": stats["feederRamPeakBytes"] + stats["feederVramPeakBytes"] if stats else 0,
        "seconds": round(seconds, 1),
    }


def compare(rows, budgets, problems):
    """Every row has the native row's tokens; T2 plus feeders hold at least 90 % of what exceeds the budget."""
    native = rows[0]
    total = rows[1]["vramPeakBytes"] + rows[1]["ramPeakBytes"]
    for row, budget in zip(rows[1:], budgets):
        if row["tokens"] != native["tokens"] or len(row["tokens"]) < 16:
            problems.append(f"{row['run']}: other tokens than native")
        overflow = max(0, total - budget) if budget else 0
        held = row["ramPeakBytes"] + row["feederPeakBytes"]
        if held < 0.9 * overflow:
            problems.append(f"{row['run']}: {held} of {overflow} overflowing bytes held outside VRAM")
        if budget and row["vramPeakBytes"] > budget:
            problems.append(f"{row['run']}: T1 over the budget")


def check():
    long_prefill = ["--long-prefill", 2048]
    rows, problems = [], []
    result, _, seconds = common.run(PROGRAM + long_prefill)
    rows.append(tier_row("native", result, None, seconds))
    budgets = [None, 4 * GIB, 2 * GIB]
    for budget in budgets:
        env = common.shim_environment(vram=budget, ram=16 * GIB)
        result, stats, seconds = common.run(PROGRAM + long_prefill, env)
        name = "shim, all in VRAM" if budget is None else f"shim, {budget // GIB} GiB of VRAM"
        rows.append(tier_row(name, result, stats, seconds))
    compare(rows, budgets, problems)
    return {"parameterBytes": result["parameterBytes"], "runs": rows}, problems

# SPDX-License-Identifier: Apache-2.0
"""The VRAM budget is kept: by the shim's own account exactly, by NVML's within 64 MiB of a bare context."""
import contextlib
import time

import common
from common import GIB, MIB

BUDGET = 1 * GIB
SLACK = 64 * MIB
SAMPLE_SECONDS = 0.002


def peak_use(command, env=None):
    """Runs the command; returns (the most that NVML said beyond what was used before, statistics)."""
    before = peak = common.gpu_used_bytes()
    with contextlib.closing(common.Running(command, env)) as running:
        while running.process.poll() is None:
            peak = max(peak, common.gpu_used_bytes())
            time.sleep(SAMPLE_SECONDS)
        result, stats, _ = running.result()
    return peak - before, result, stats


def check():
    program = common.nvcc("cycle.cu")
    small, figures, problems = 128 * MIB, {"budgetBytes": BUDGET, "runs": []}, []
    command = [program, "--buffer-bytes", 8 * MIB, "--rounds", 40, "--seconds", 1]
    native, _, _ = peak_use([*command, "--bytes", small])
    bare = native - small  # context and modules, as any program has them
    figures["bareContextBytes"] = bare
    for factor in (0.5, 2, 3):
        for staging in ("off", "auto", "always"):
            env = common.shim_environment(vram=BUDGET, ram=8 * GIB, GREENBOOST_STAGING=staging)
            used, result, stats = peak_use([*command, "--bytes", int(BUDGET * factor)], env)
            name = f"{factor} times the budget, staging {staging}"
            figures["runs"].append({
                "run": name,
                "nvmlBytesBeyondContext": used - bare,
                "vramPeakBytes": stats["vramPeakBytes"],
                "remapCount": stats.get("remapCount"),
            })
            if stats["vramPeakBytes"] > BUDGET:
                problems.append(f"{name}: {stats['vramPeakBytes']} bytes of VRAM by the shim's account")
            if used - bare > BUDGET + SLACK:
                problems.append(f"{name}: {used - bare} bytes beyond a bare context by NVML")
            if result["wrongWords"]:
                problems.append(f"{name}: {result['wrongWords']} wrong words")
    return figures, problems

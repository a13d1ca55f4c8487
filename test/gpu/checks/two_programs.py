# SPDX-License-Identifier: Apache-2.0
"""Two programs on one GPU, both overflowing: both right, and neither gets more than 20 % less than the other.

Without Node.js each gets half of the VRAM as its explicit budget; with it, an agent shares the GPU out as well.
"""
import contextlib
import os
import shutil
import subprocess
import tempfile

import common
import machine
from common import GIB, MIB

SECONDS = 12
SHARE = 1 * GIB  # VRAM of each
FAIR = 0.8


def judge(name, results, problems):
    """Compares two (result, stats, seconds); returns the row."""
    rates = [result["rounds"] / result["seconds"] for result, _, _ in results]
    fairness = min(rates) / max(rates)
    for index, (result, stats, _) in enumerate(results):
        if result["wrongWords"]:
            problems.append(f"{name}: {result['wrongWords']} wrong words in program {index}")
        if not stats["ramPeakBytes"]:
            problems.append(f"{name}: program {index} did not overflow")
    if fairness < FAIR:
        problems.append(f"{name}: the slower got {fairness:.2f} of the faster's rounds")
    return {
        "run": name,
        "fairness": round(fairness, 3),
        "programs": [
            {
                "roundsPerSecond": round(rate, 2),
                "vramPeakBytes": stats["vramPeakBytes"],
                "ramPeakBytes": stats["ramPeakBytes"],
                "remapCount": stats.get("remapCount"),
            }
            for rate, (_, stats, _) in zip(rates, results)
        ],
    }


def both(name, command, environments, problems):
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(contextlib.closing(common.Running(command, env))) for env in environments]
        return judge(name, [program.result(SECONDS * 10) for program in programs], problems)


def under_an_agent(command, problems):
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        host = machine.Machine(
            os.path.join(folder, "host"), GREENBOOST_AGENT_RAM_BUDGET=str(8 * GIB), GREENBOOST_CHECK_STATS="1"
        )
        stack.callback(lambda: subprocess.run([*machine.CLI, "agent", "stop", "--force"], env=host.env, timeout=60))
        run = [*machine.CLI, "run", "--vram-budget", str(SHARE), "--", *command]
        return both("budgets through an agent", run, [host.env, host.env], problems)


def check():
    command = [common.nvcc("cycle.cu"), "--bytes", 2 * SHARE, "--buffer-bytes", 16 * MIB, "--rounds", 4,
               "--seconds", SECONDS]
    problems, rows = [], []
    for staging in ("off", "auto"):
        env = common.shim_environment(vram=SHARE, ram=4 * GIB, GREENBOOST_STAGING=staging)
        rows.append(both(f"explicit budgets, staging {staging}", command, [env, env], problems))
    if shutil.which("node") and (common.BUILD / "js").exists():
        rows.append(under_an_agent(command, problems))
    else:
        print("  the run under an agent is left out: no Node.js or no build/js here", flush=True)
    return {"shareBytes": SHARE, "workingSetBytes": 2 * SHARE, "runs": rows}, problems

# SPDX-License-Identifier: Apache-2.0
"""CUDA IPC between two processes under the shim while everything else is remapped: the programs of test/c/ipc on the
real driver, and torch.multiprocessing. Every word is compared on both sides."""
import importlib.util
import os
import subprocess
import sys
import tempfile

import common
from common import GIB, MIB

CASES = {"sharing": ["whole", "concurrent", "moved", "small", "many"],
         "trouble": ["damaged", "strangers", "killed-exporter", "killed-peer", "forked", "capture", "room"]}
BUDGETS = {"many": {"vram": 1536 * MIB, "ram": GIB}}
LIMIT_SECONDS = 200


def run_case(program, case, module, folder):
    """returns: what is wrong, or None."""
    budgets = BUDGETS.get(case, {"vram": 32 * MIB, "ram": 256 * MIB})
    env = common.shim_environment(**budgets, GREENBOOST_STAGING="always", GREENBOOST_FRAMES="8MiB",
                                  GREENBOOST_STATS_FILE=os.path.join(folder, case))
    command = [common.BUILD / "test" / "ipc" / program, module, case]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    return None if done.returncode == 0 else f"{case}: exit {done.returncode}: {done.stderr[-2000:]}"


def torch_rows(problems):
    if importlib.util.find_spec("torch") is None:
        return "left out: no PyTorch"
    command = [sys.executable, common.PROGRAMS / "torch_ipc_program.py", 3 * GIB]
    result, stats, seconds = common.run(command, common.shim_environment(vram=1 * GIB, ram=4 * GIB))
    if result != {"wrongInChild": 0, "wrong": 0, "wrongTotal": 0, "exit": 0}:
        problems.append(f"torch.multiprocessing: {result}")
    return {**result, "ramPeakBytes": stats["ramPeakBytes"], "seconds": round(seconds, 1)}


def check():
    subprocess.run(["make", "-s", "build/test/ipc/sharing", "build/test/ipc/trouble"], cwd=common.ROOT, check=True)
    module = common.nvcc("ipc_kernels.cu", "-cubin")
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for program, cases in CASES.items():
            found = [run_case(program, case, module, folder) for case in cases]
            problems += [problem for problem in found if problem]
    passed = sum(len(cases) for cases in CASES.values()) - len(problems)
    return {"casesPassed": passed, "torch": torch_rows(problems)}, problems

# SPDX-License-Identifier: Apache-2.0
"""A CUDA C program of three and four times its VRAM budget with too little RAM, no feeder and an NVMe file: every word
right, and at which rate ranges left and came back."""
import pathlib
import tempfile

import common
from common import GIB, MIB

BUDGET = 1 * GIB
RAM = 512 * MIB
FILE = 6 * GIB


def check():
    program = common.nvcc("overflow.cu")
    figures, problems = {"budgetBytes": BUDGET, "ramBudgetBytes": RAM, "nvmeBudgetBytes": FILE, "runs": []}, []
    with tempfile.TemporaryDirectory(dir=common.BUILD, prefix="nvme-") as folder:
        nvme = {"GREENBOOST_OVERCOMMIT": "gated", "GREENBOOST_NVME_DIR": folder, "GREENBOOST_NVME_BUDGET": FILE}
        for factor in (3, 4):
            total = BUDGET * factor
            env = common.shim_environment(vram=BUDGET, ram=RAM, GREENBOOST_SOCKET=f"{folder}/none", **nvme)
            result, stats, seconds = common.run([program, total, 64 * MIB, 2], env)
            moved = stats["nvmeReadBytes"] + stats["nvmeWriteBytes"]
            figures["runs"].append({
                "workingSetBytes": result["bytes"],
                "wrongWords": result["wrongWords"],
                "vramPeakBytes": stats["vramPeakBytes"],
                "ramPeakBytes": stats["ramPeakBytes"],
                "nvmePeakBytes": stats["nvmePeakBytes"],
                "nvmeReadBytes": stats["nvmeReadBytes"],
                "nvmeWriteBytes": stats["nvmeWriteBytes"],
                "cleanDropBytes": stats["cleanDropBytes"],
                "bothWaysGBps": round(moved / max(1, stats["stallMicros"]) / 1e3, 2),
                "seconds": round(seconds, 2),
            })
            if stats["vramPeakBytes"] > BUDGET or stats["ramPeakBytes"] > RAM:
                problems.append(f"{factor}x: T1 {stats['vramPeakBytes']} or T2 {stats['ramPeakBytes']} over the budget")
            if stats["nvmePeakBytes"] < total - BUDGET - RAM:
                problems.append(f"{factor}x: the file held {stats['nvmePeakBytes']} bytes only")
            left = [path.name for path in pathlib.Path(folder).iterdir() if "-writes-" not in path.name]
            if left:
                problems.append(f"{factor}x: left in the folder: {left}")
    return figures, problems

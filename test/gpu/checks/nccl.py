# SPDX-License-Identifier: Apache-2.0
"""All-reduces over two GPUs while each rank's overflow is remapped: right sums, right weights, no hang."""
import contextlib
import socket
import subprocess
import sys

import common
from common import GIB

BUDGET = 2 * GIB
LIMIT_SECONDS = 180


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check():
    count = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.count("GPU ")
    if count < 2:
        raise common.LeftOut(f"an all-reduce needs two GPUs, this machine has {count}")
    problems, rows = [], []
    env = common.shim_environment(vram=BUDGET, ram=8 * GIB, GREENBOOST_STAGING="always")
    env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE="2")
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(2):
            command = [sys.executable, common.PROGRAMS / "nccl_program.py", "--bytes", 2 * BUDGET]
            ranks.append(stack.enter_context(contextlib.closing(common.Running(command, {**env, "RANK": str(rank)}))))
        for rank, running in enumerate(ranks):
            try:
                result, stats, seconds = running.result(LIMIT_SECONDS)
            except RuntimeError as error:
                problems.append(f"rank {rank}: {error}"[:2000])
                continue
            counted = {key: stats.get(key) for key in ("remapCount", "switchCount", "switchAbandonedCount")}
            rows.append({**result, **counted, "ramPeakBytes": stats["ramPeakBytes"], "wallSeconds": round(seconds, 1)})
            if result["wrongSums"] or result["wrongWeights"]:
                problems.append(f"rank {rank}: {result['wrongSums']} sums, {result['wrongWeights']} weights are wrong")
    if not any((row["remapCount"] or 0) > 100 for row in rows):
        problems.append("no rank saw more than 100 remaps")
    return {"budgetBytes": BUDGET, "ranks": rows}, problems

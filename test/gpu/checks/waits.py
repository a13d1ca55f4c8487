# SPDX-License-Identifier: Apache-2.0
"""Streams that wait for the host, by a stream memory operation or a host callback, while everything is remapped
constantly: no hang, no wrong word, callbacks in order. One thread waits beside others that do the same."""
import common
from common import MIB

LIMIT_SECONDS = 60
BYTES = 512 * MIB  # per thread


def check():
    program = common.nvcc("cycle.cu")
    figures, problems = {"runs": []}, []
    for sync in ("wait", "callback"):
        for threads in (1, 3):
            name = f"{sync}, {threads} threads"
            env = common.shim_environment(vram=BYTES * threads // 2, ram=8 << 30, GREENBOOST_STAGING="always")
            command = [program, "--bytes", BYTES, "--buffer-bytes", 4 * MIB, "--threads", threads, "--rounds", 60,
                       "--sync", sync]
            try:
                result, stats, seconds = common.run(command, env, timeout=LIMIT_SECONDS)
            except RuntimeError as error:
                problems.append(f"{name}: {error}")
                continue
            counted = {key: stats.get(key) for key in ("remapCount", "switchCount", "switchAbandonedCount")}
            figures["runs"].append({"run": name, **result, **counted, "wallSeconds": round(seconds, 2)})
            if sync == "callback" and result["callbacks"] != result["rounds"]:
                problems.append(f"{name}: {result['callbacks']} callbacks in {result['rounds']} rounds")
    if not any((row["remapCount"] or 0) > 100 for row in figures["runs"]):
        problems.append("no run saw more than 100 remaps")
    return figures, problems

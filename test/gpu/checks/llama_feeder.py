# SPDX-License-Identifier: Apache-2.0
"""PyTorch with 2 GiB of VRAM and 2 GiB of RAM: the rest of the model lives in the RAM of a feeder on loopback.

The whole path is real: feeder daemon and executor, TLS, agent, `greenboost run --overcommit gated`. Needs Node.js.
"""
import sys
import time

import common
import machine
from checks.llama import compare, tier_row
from common import GIB

PROGRAM = [sys.executable, common.PROGRAMS / "llama.py"]
OPTIONS = ["--vram-budget", "2GiB", "--ram-budget", "2GiB", "--overcommit", "gated"]


def check():
    native, _, seconds = common.run(PROGRAM)
    rows = [tier_row("native", native, None, seconds)]
    whole, stats, seconds = common.run(PROGRAM, common.shim_environment())
    rows.append(tier_row("shim, all in VRAM", whole, stats, seconds))
    problems = []
    with machine.pair("--ram", "12GiB", "--gpu", "none") as (host, feeder):
        result, stats, seconds = host.run(OPTIONS, PROGRAM)
        lent = feeder.feed_status()
        row = tier_row("shim, 2 GiB of VRAM, 2 GiB of RAM, the rest in a feeder's RAM", result, stats, seconds)
        row["fetchBytes"], row["evictBytes"] = stats["fetchBytes"], stats["evictBytes"]
        row["cleanDropBytes"] = stats["cleanDropBytes"]
        row["feederReadBytes"], row["feederWriteBytes"] = lent["readBytes"], lent["writeBytes"]
        rows.append(row)
        time.sleep(5)
        if any(device["usedBytes"] or device["leasedBytes"] for device in feeder.feed_status()["devices"]):
            problems.append("the feeder still holds bytes five seconds after the program ended")
    compare(rows, [None, 2 * GIB], problems)
    overflow = rows[1]["vramPeakBytes"] + rows[1]["ramPeakBytes"] - 4 * GIB
    if rows[2]["feederPeakBytes"] < 0.9 * overflow:
        problems.append(f"the feeder held {rows[2]['feederPeakBytes']} of {overflow} bytes beyond VRAM and RAM")
    return {"parameterBytes": native["parameterBytes"], "runs": rows}, problems

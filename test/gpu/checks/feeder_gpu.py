# SPDX-License-Identifier: Apache-2.0
"""A feeder that lends VRAM and RAM of a real GPU machine: its executor holds both at the host's addresses.

A driver-API program three times its VRAM budget keeps a third of its bytes there and checks every word.
"""
import time

import common
import machine
from common import MIB

BUDGET = 512 * MIB
OPTIONS = ["--vram-budget", str(BUDGET), "--ram-budget", str(BUDGET), "--overcommit", "gated"]
PROGRAM = [common.BUILD / "bin" / "gb_workset", "--bytes", str(3 * BUDGET), "--buffer-bytes", str(32 * MIB), "--json"]


def check():
    problems = []
    # RAM alone is too small for the overflow and its slack: the program must use VRAM as well.
    lends = ("--gpu", "cuda", "--vram", "0=512MiB", "--ram", "320MiB")
    with machine.pair(*lends) as (host, feeder):
        devices = feeder.feed_status()["devices"]
        result, stats, seconds = host.run(OPTIONS, PROGRAM, timeout=200)
        time.sleep(5)
        after = feeder.feed_status()
    held = stats["feederVramPeakBytes"] + stats["feederRamPeakBytes"]
    if not result["ok"] or result["mismatches"]:
        problems.append(f"{result['mismatches']} words are wrong")
    if held < BUDGET:
        problems.append(f"the feeder held {held} bytes, expected at least {BUDGET}")
    if not stats["feederVramPeakBytes"] or not stats["feederRamPeakBytes"]:
        problems.append("not both of the feeder's devices were used")
    if any(device["usedBytes"] or device["leasedBytes"] for device in after["devices"]):
        problems.append("the feeder still holds bytes five seconds after the program ended")
    figures = {
        "lent": [{key: device[key] for key in ("kind", "name", "capacityBytes")} for device in devices],
        "workingSetBytes": result["bytes"],
        "vramPeakBytes": stats["vramPeakBytes"],
        "ramPeakBytes": stats["ramPeakBytes"],
        "feederVramPeakBytes": stats["feederVramPeakBytes"],
        "feederRamPeakBytes": stats["feederRamPeakBytes"],
        "fetchBytes": stats["fetchBytes"],
        "evictBytes": stats["evictBytes"],
        "seconds": round(seconds, 1),
    }
    return figures, problems

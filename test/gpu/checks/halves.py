# SPDX-License-Identifier: Apache-2.0
"""One program, native and under the shim with half of the VRAM it takes natively, staging as soon as an order is known:
the same line of results."""
import os

import common
from common import GIB, MIB

REMAPS_MIN = 100


def half(name, command, environment=None, peak=None, remaps_min=REMAPS_MIN):
    """Runs `command` natively and halved. peak: its native peak; measured under the shim without a budget when it is
    neither given nor said in its result ("peakBytes"). Returns (row, problems)."""
    environment = environment or {}
    row = {"program": name}
    try:
        native, _, row["nativeSeconds"] = common.run(command, {**os.environ, **environment})
        peak = peak or native.get("peakBytes")
        if peak is None:
            whole, stats, _ = common.run(command, common.shim_environment(ram=32 * GIB, **environment))
            peak = stats["vramPeakBytes"]
            if whole != native:
                return row, [f"{name}: other results under the shim without a budget"]
        budget = peak // 2 // (2 * MIB) * (2 * MIB)
        settings = {"GREENBOOST_STAGING": "always", **environment}
        halved, stats, row["seconds"] = common.run(
            command, common.shim_environment(vram=budget, ram=32 * GIB, **settings)
        )
    except RuntimeError as error:
        return row, [f"{name}: {str(error)[-1500:]}"]
    row["nativeSeconds"], row["seconds"] = round(row["nativeSeconds"], 1), round(row["seconds"], 1)
    row.update({"nativePeakBytes": peak, "budgetBytes": budget})
    for figure in ("vramPeakBytes", "ramPeakBytes", "remapCount", "switchCount", "switchAbandonedCount",
                   "stagedInBytes", "stageOutBytes", "staging"):
        row[figure] = stats[figure]
    problems = []
    if native != halved:
        problems.append(f"{name}: other results than native: {different(native, halved)}")
    if stats["vramPeakBytes"] > budget:
        problems.append(f"{name}: {stats['vramPeakBytes']} bytes of VRAM, over its budget of {budget}")
    if stats["remapCount"] <= remaps_min:
        problems.append(f"{name}: {stats['remapCount']} remaps, not over {remaps_min} (staging: {stats['staging']})")
    return row, problems


def different(native, halved):
    return ", ".join(key for key in native if halved.get(key) != native[key])

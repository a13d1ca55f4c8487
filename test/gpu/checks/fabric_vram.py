# SPDX-License-Identifier: Apache-2.0
"""VRAM that a feeder lends, read into VRAM of the host over a lane on loopback: over the slower of lane and PCIe."""
import os
import sys

import common

sys.path.insert(0, str(common.ROOT / "bench" / "fabric"))
import vram  # noqa: E402

MEBIBYTES = int(os.environ.get("GREENBOOST_FABRIC_MIB", "4096"))
ROUNDS = int(os.environ.get("GREENBOOST_FABRIC_ROUNDS", "11"))


def check():
    figures = vram.measure(MEBIBYTES, ROUNDS)
    problems = []
    if figures["simulated"]:
        raise common.LeftOut("this is the simulated driver")
    if figures["readRatioMedian"] < vram.WANTED:
        problems.append(f"reads of VRAM reach {figures['readRatioMedian']} of the slower of lane and PCIe")
    return figures, problems

# SPDX-License-Identifier: Apache-2.0
"""What the link allows: the time below which no pass can be, from figures measured in the same run, term by term."""
import functools
import statistics

import common

PROGRAMS = common.ROOT / "bench" / "gpu" / "programs"


@functools.cache
def link() -> dict:
    """Bytes per second of pinned copies: to the GPU, from it, both at once."""
    return common.run([common.nvcc(PROGRAMS / "link.cu")])[0]


def seconds_of(phase: dict) -> float:
    """The mean: a pass that is slow now and then counts."""
    return statistics.fmean(phase["seconds"])


def _crossing(phase: dict, stay: int) -> tuple:
    """(bytes that enter VRAM in a pass, bytes that leave it, the seconds both take)."""
    rates = link()
    entering = max(0, phase["touchedBytes"] - stay)
    leaving = max(0, phase.get("writtenBytes", 0) - stay)
    transfer = max(
        entering / rates["h2dBytesPerSecond"],
        leaving / rates["d2hBytesPerSecond"],
        (entering + leaving) / rates["bothBytesPerSecond"] if leaving else 0,
    )
    return entering, leaving, transfer


def bound(native: dict, phase: dict, budget: int, frames: int) -> dict:
    """The terms of one phase under one budget.

    native, phase: what a program printed for it. What stays in VRAM is what the budget leaves after the frames; what
    stays is what changes, where anything does, because that would cross twice. The directions overlap as far as the
    link let them when it was measured.
    """
    stay = max(0, budget - frames)
    entering, leaving, transfer = _crossing(phase, stay)
    native_seconds, measured = seconds_of(native), seconds_of(phase)
    least = max(native_seconds, transfer)
    return {
        "touchedBytes": phase["touchedBytes"],
        "budgetBytes": budget,
        "frameBytes": frames,
        "stayBytes": stay,
        "crossingBytes": entering,
        "crossingBackBytes": leaving,
        "transferSeconds": round(transfer, 6),
        "nativeSeconds": round(native_seconds, 6),
        "boundSeconds": round(least, 6),
        "measuredSeconds": round(measured, 6),
        "passes": len(phase["seconds"]),
        "overBound": round(least / measured, 4),
        # Were no VRAM needed for frames: harder than the figure, and the same whatever the shim says of its frames.
        "overBoundWithoutFrames": round(max(native_seconds, _crossing(phase, budget)[2]) / measured, 4),
    }

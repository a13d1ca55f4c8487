# SPDX-License-Identifier: Apache-2.0
"""Feeder VRAM read into VRAM of the host over loopback, beside the lane alone and the copies of the GPU alone, and
the same the other way; medians of interleaved rounds. Needs a GPU, its driver and a C compiler; no Node.js. On the
simulated driver it shows that everything works, and nothing about a GPU."""
import contextlib

from steps import BUILD, Steps, make, median, rounded

WANTED = 0.85
STEPS = ("ram-read", "vram-read", "h2d", "d2h", "vram-write", "ram-write")


def measure(mebibytes, rounds, env=None):
    """returns: figures."""
    make("build/bench/fabric-vram")
    command = [BUILD / "bench" / "fabric-vram", BUILD / "bin" / "gb-executor", mebibytes]
    with contextlib.closing(Steps(command, env)) as steps:
        start = steps.start
        for name in (*STEPS, "check"):  # warms up, and looks at every byte
            steps.do(name)
        rows = [{name: steps.rate(name) for name in STEPS} for _ in range(rounds)]
        steps.do("check")
        steps.end()
    reads = [row["vram-read"] / min(row["ram-read"], row["h2d"], row["d2h"]) for row in rows]
    writes = [row["vram-write"] / min(row["ram-write"], row["h2d"], row["d2h"]) for row in rows]
    return {
        "gpu": start["gpu"],
        "simulated": "Simulated" in start["gpu"],
        "cipher": f"{start['cipher']} by {start['provider']}",
        "connections": start["connections"],
        "mebibytes": mebibytes,
        "rounds": rounds,
        "mediansGBps": {name: median([row[name] for row in rows]) for name in STEPS},
        "GBps": {name: rounded([row[name] for row in rows]) for name in STEPS},
        "readRatios": rounded(reads),
        "readRatioMedian": median(reads),
        "writeRatios": rounded(writes),
        "writeRatioMedian": median(writes),
        "wanted": WANTED,
    }

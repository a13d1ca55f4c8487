# SPDX-License-Identifier: Apache-2.0
"""Evictions to a feeder and fetches from it by a program under the shim, beside writes and reads of the same size over
a lane of nothing else, in interleaved rounds of one run. Real daemons over a simulated GPU, on loopback.

A round: a kernel changes every word; room for something else as large makes all of it leave (evict); that goes away,
and a kernel that needs one word of each buffer brings all back (fetch). The bytes are those that the shim counted."""
import contextlib
import json
import os
import pathlib
import tempfile

from steps import BUILD, MIB, Steps, make, median, rounded
from upload import SIMULATED, SLAB, SLACK, machine, program

WAYS = {"evict": "ram-write", "fetch": "ram-read"}


def round_of(away, lane, size, key):
    """returns: seconds and the raw lane's GB/s of each way, and whether the content is what it was."""
    away.do(f"change {key}")
    before = away.do("sum")["sum"]
    row = {"evict": away.do(f"crowd {size}")["milliseconds"] / 1e3}
    row["ram-write"] = lane.rate("ram-write")
    away.do("leave")
    row["fetch"] = away.do("touch")["milliseconds"] / 1e3
    row["ram-read"] = lane.rate("ram-read")
    row["right"] = away.do("sum")["sum"] == before
    return row


def play(host, size, rounds):
    """returns: the rounds after the one that warms up, and the bytes that moved in all of them, by the shim's count."""
    raw = [BUILD / "bench" / "fabric-vram", BUILD / "bin" / "gb-executor", size // MIB, "no-gpu"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(BUILD / "lib" / "sim")}
    with tempfile.NamedTemporaryFile(suffix=".json") as stats, contextlib.ExitStack() as stack:
        host.env["GREENBOOST_STATS_FILE"] = stats.name
        lane = stack.enter_context(contextlib.closing(Steps(raw, environment)))
        away = stack.enter_context(program(host, size + SLAB, size))
        away.do("fill 1")
        rows = [round_of(away, lane, size, key + 2) for key in range(rounds + 1)]
        away.end()
        lane.end()
        counted = json.loads(pathlib.Path(stats.name).read_text())
    return rows, {"evict": counted["evictBytes"], "fetch": counted["fetchBytes"]}


def measure(size, rounds):
    """returns: figures."""
    make("natives", "js", "build/bench/fabric-vram")
    os.environ.update(SIMULATED)
    lends = ("--gpu", "none", "--ram", str(2 * size + SLACK), "--cache-bytes", "0")
    with machine.pair(*lends) as (host, _):
        rows, moved = play(host, size, rounds)
    figures = {"bytes": size, "rounds": rounds, "right": all(row["right"] for row in rows)}
    for way, raw in WAYS.items():
        each = moved[way] / len(rows)
        rates = [each / row[way] / 1e9 for row in rows[1:]]
        lanes = [row[raw] for row in rows[1:]]
        ratios = [rate / of for rate, of in zip(rates, lanes)]
        figures[way] = {
            "bytesEach": round(each),
            "GBps": rounded(rates),
            "medianGBps": median(rates),
            "laneGBps": rounded(lanes),
            "laneMedianGBps": median(lanes),
            "ratios": rounded(ratios),
            "ratioMedian": median(ratios),
        }
    return figures

# SPDX-License-Identifier: Apache-2.0
"""The same content stored twice by two programs, one after the other, on a feeder that keeps blocks: bytes on the wire.

Real daemons and a preloaded shim over a simulated GPU on loopback; all bytes that cross it are counted by the kernel,
control and headers among them, which is why this wants a network namespace of its own (run.py gives it one)."""
import contextlib
import os
import pathlib
import sys
import time

from steps import BUILD, MIB, ROOT, Steps, make

sys.path.insert(0, str(ROOT / "test" / "gpu"))
import machine  # noqa: E402

WANTED = 0.01
SEED = 7
VRAM = 128 * MIB
SLAB = 2 * MIB  # in which the program's small buffer lies
SLACK = 256 * MIB  # what a lease is larger by
QUIET_SECONDS = 20  # a disk that was too slow is not written to for half of that
SIMULATED = {"GREENBOOST_GPU": "sim", "GBSIM_GPU": f"fabric-{os.getpid()}", "GBSIM_VRAM": "2GiB"}


def on_the_wire():
    """Bytes that have crossed loopback, with their headers, both directions together."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    raise RuntimeError("there is no loopback")


def program(host, vram, size, buffer=16 * MIB):
    """gb_away under `greenboost run`, with so much VRAM, no RAM, and the rest on feeders."""
    limits = ("--gpu", "sim", "--vram-budget", vram, "--ram-budget", 0, "--overcommit", "gated")
    work = (BUILD / "bin" / "gb_away", "--bytes", size, "--buffer-bytes", buffer)
    return contextlib.closing(Steps([*machine.CLI, "run", *limits, "--", *work], host.env))


def kept_bytes(feeder):
    """On the disk of the feeder."""
    folder = pathlib.Path(feeder.env["XDG_CACHE_HOME"])
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def wait_until_kept(feeder, size):
    """Blocks are hashed and written to the disk in the background: until all are there, or no more come. returns:
    seconds."""
    start = changed = time.monotonic()
    seen = 0
    while seen < size and time.monotonic() - changed < QUIET_SECONDS:
        time.sleep(0.2)
        kept = kept_bytes(feeder)
        if kept != seen:
            seen, changed = kept, time.monotonic()
    return round(time.monotonic() - start, 1)


def lanes_of(feeder):
    """Sums over what programs' lanes have moved, by the feeder's account."""
    lanes = [lane for lane in feeder.feed_status()["lanes"] if lane["leaseId"] is not None]
    return {name: sum(lane[name] for lane in lanes) for name in ("writeBytes", "cachedBytes")}


def upload(host, feeder, size, first):
    """One run of the program. returns: its row."""
    before = on_the_wire()
    with program(host, VRAM, size) as steps:
        filled = steps.do(f"fill {SEED}")["milliseconds"]
        filled += steps.do(f"crowd {VRAM - SLAB}")["milliseconds"]  # what was still in VRAM leaves as well
        row = {"wireBytes": on_the_wire() - before, "seconds": round(filled / 1e3, 2), **lanes_of(feeder)}
        if first:
            row["keptAfterSeconds"] = wait_until_kept(feeder, size)
            row["keptBytes"] = kept_bytes(feeder)
        steps.do("leave")
        row["wrongBuffers"] = steps.do(f"check {SEED}")["wrong"]
        steps.end()
    row["wireOverContent"] = round(row["wireBytes"] / size, 5)
    return row


def measure(size):
    """returns: figures."""
    make("natives", "js")
    os.environ.update(SIMULATED)
    lends = ("--gpu", "none", "--ram", str(size + SLACK), "--cache-bytes", str(size + size // 2))
    with machine.pair(*lends) as (host, feeder):
        rows = [upload(host, feeder, size, first) for first in (True, False)]
    return {
        "contentBytes": size,
        "first": rows[0],
        "second": rows[1],
        "secondOverContent": rows[1]["wireOverContent"],
        "secondOverFirst": round(rows[1]["wireBytes"] / rows[0]["wireBytes"], 5),
        "right": rows[0]["wrongBuffers"] == rows[1]["wrongBuffers"] == 0,
        "wanted": WANTED,
    }

# SPDX-License-Identifier: Apache-2.0
"""PyTorch with 2 GiB of VRAM and 2 GiB of RAM: the rest of the model lives in the RAM of a feeder on loopback.

The whole path is real: feeder daemon and executor, TLS, agent, `greenboost run --overcommit gated`. Needs Node.js.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

import common
from checks.llama import compare, tier_row
from common import GIB

PORT = "9741"
CLI = ["node", str(common.BUILD / "js" / "tui" / "cli" / "main.js")]


class Machine:
    """Folders of its own, so that feeder and host share nothing but the loopback interface."""

    def __init__(self, folder, **extra):
        self.env = {**os.environ, **extra}
        for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            path = os.path.join(folder, variable.lower())
            os.makedirs(path, mode=0o700)
            self.env[variable] = path

    def call(self, *arguments, timeout=60, **extra):
        done = subprocess.run(
            [*CLI, *arguments], env={**self.env, **extra}, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode != 0:
            raise RuntimeError(f"greenboost {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout


def run_beyond(host, feeder):
    command = [
        *CLI, "run", "--vram-budget", "2GiB", "--ram-budget", "2GiB", "--overcommit", "gated", "--",
        sys.executable, common.PROGRAMS / "llama.py",
    ]
    env = {**host.env, "GREENBOOST_CHECK_STATS": "1"}
    result, stats, seconds = common.run(command, env, timeout=540)
    lent = json.loads(feeder.call("feed", "status", "--json"))
    return result, stats, seconds, lent


def check():
    native, _, seconds = common.run([sys.executable, common.PROGRAMS / "llama.py"])
    rows = [tier_row("native", native, None, seconds)]
    whole, stats, seconds = common.run([sys.executable, common.PROGRAMS / "llama.py"], common.shim_environment())
    rows.append(tier_row("shim, all in VRAM", whole, stats, seconds))
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        feeder = Machine(os.path.join(folder, "feeder"))
        host = Machine(os.path.join(folder, "host"), GREENBOOST_AGENT_RAM_BUDGET=str(16 * GIB))
        try:
            feeder.call("feed", "start", "--ram", "12GiB", "--gpu", "none", "--port", PORT, "--bind", "127.0.0.1")
            key = feeder.call("key", "show").strip().splitlines()[-1]
            print(host.call("connect", f"127.0.0.1:{PORT}", GREENBOOST_KEY=key), flush=True)
            result, stats, seconds, lent = run_beyond(host, feeder)
            row = tier_row("shim, 2 GiB of VRAM, 2 GiB of RAM, the rest in a feeder's RAM", result, stats, seconds)
            row["fetchBytes"], row["evictBytes"] = stats["fetchBytes"], stats["evictBytes"]
            row["cleanDropBytes"] = stats["cleanDropBytes"]
            row["feederReadBytes"], row["feederWriteBytes"] = lent["readBytes"], lent["writeBytes"]
            rows.append(row)
            time.sleep(5)
            left = json.loads(feeder.call("feed", "status", "--json"))
            if any(device["usedBytes"] or device["leasedBytes"] for device in left["devices"]):
                problems.append("the feeder still holds bytes five seconds after the program ended")
        finally:
            for machine, stop in ((host, ("agent", "stop", "--force")), (feeder, ("feed", "stop", "--grace", "0"))):
                subprocess.run([*CLI, *stop], env=machine.env, capture_output=True, timeout=60)
    compare(rows, [None, 2 * GIB], problems)
    overflow = rows[1]["vramPeakBytes"] + rows[1]["ramPeakBytes"] - 4 * GIB
    if rows[2]["feederPeakBytes"] < 0.9 * overflow:
        problems.append(f"the feeder held {rows[2]['feederPeakBytes']} of {overflow} bytes beyond VRAM and RAM")
    return {"parameterBytes": native["parameterBytes"], "runs": rows}, problems

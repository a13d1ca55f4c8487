# SPDX-License-Identifier: Apache-2.0
"""The benches: each function takes the options and returns (figures, problems)."""
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import common
from bound import PROGRAMS
from checks.overhead import interval, paired
from common import GIB, MIB
from sweep import sweep


@dataclasses.dataclass(frozen=True)
class Options:
    fractions: tuple  # VRAM budgets as parts of what the program takes by itself
    pairs: int
    small: bool  # only whether everything runs: two layers, few passes


def python(name, *arguments):
    return [sys.executable, PROGRAMS / name, *arguments]


def layers(options):
    return ["--layers", 2] if options.small else []


def torch(options):
    """Eager decode and prefill; Hugging Face accelerate with the same VRAM beside them."""
    command = python("llm.py", *layers(options), *(["--tokens", 14, "--passes", 2] if options.small else []))

    def accelerate(budget):
        return [*command, "--engine", "accelerate", "--vram", budget, "--passes", 3]

    return sweep(command, options.fractions, ["--passes", 2], {"accelerate": accelerate})


def graphs(options):
    """Decode under torch.compile(mode="reduce-overhead") with a static KV cache."""
    command = python("llm.py", "--engine", "graphs", *layers(options), "--tokens", 48, "--warm", 12)
    return sweep(command, options.fractions)


def _engine(options, *arguments):
    program = common.nvcc(PROGRAMS / "engine_loop.cu", "-lcublas")
    return [program, *arguments, *layers(options)]


def engine_decode(options):
    return sweep(_engine(options, "decode", "graph", "--passes", 32, "--warm", 8), options.fractions)


def engine_prefill(options):
    # In-place passes take seconds each, so there are fewer of them.
    command = _engine(options, "prefill", "graph", "--passes", 12, "--warm", 6)
    return sweep(command, options.fractions, ["--passes", 2, "--warm", 1])


def train(options):
    command = python("train.py", *(["--layers", 1, "--batch", 1, "--passes", 2] if options.small else []))
    return sweep(command, options.fractions)


def fits(options):
    """What the shim costs when everything fits: interleaved pairs of GPU-bound loops."""
    figures, size = {}, ("--layers", 2, "--passes", 60) if options.small else ("--layers", 4, "--passes", 400)
    for kind in ("graph", "launch"):
        command = _engine(options, "decode", kind, *size, "--warm", 50)
        figures[kind] = paired(
            command, lambda result: statistics.fmean(result["phases"]["decode"]["seconds"]) * 1e6, options.pairs, True
        )
        figures[kind]["unit"] = "microseconds per token"
    return figures, []


def launch(options):
    """bench/launch: a hooked launch over a driver that does nothing."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run([common.ROOT / "bench" / "launch" / "run.sh", out.name], check=True, stdout=subprocess.DEVNULL)
        return json.loads(pathlib.Path(out.name).read_text()), []


def random_access(options):
    """Rows gathered at random from overflowing tables: staging left to itself against reading in place."""
    program = common.nvcc(PROGRAMS / "gather.cu")
    total = GIB // 2 if options.small else 4 * GIB
    figures, problems = {}, []
    for name, tables in (("oneTable", 1), ("randomTables", 16)):
        command = [program, tables, total // tables, 100 if options.small else 1000]
        native = common.run(command)[0]["results"]
        ratios, rows = [], []
        for index in range(max(3, options.pairs // 2)):
            row = {}
            for staging in ("auto", "off") if index % 2 == 0 else ("off", "auto"):
                env = common.shim_environment(vram=total // 2, ram=16 * GIB, GREENBOOST_STAGING=staging)
                result, stats, _ = common.run(command, env)
                row[staging] = result["secondsPerLaunch"]
                row[f"{staging}Remaps"] = stats.get("remapCount")
                if result["results"] != native:
                    problems.append(f"{name}, staging {staging}: another sum than native")
            rows.append(row)
            ratios.append(row["off"] / row["auto"])
        figures[name] = {"ratio": interval(ratios), "pairs": rows, "tableBytes": total // tables, "tables": tables}
    return figures, problems


def _start_seconds(command, env, times):
    """Wall time of whole runs of a program that only starts CUDA."""
    taken = []
    for _ in range(times):
        start = time.monotonic()
        subprocess.run([str(c) for c in command], env=env, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.monotonic() - start)
    return taken


def _resident_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"process {pid} says nothing of its resident set")


def _with_agent(command, times):
    """What `greenboost run` adds, and what the agent holds, after programs came and went. Needs Node.js."""
    import machine

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        host = machine.Machine(os.path.join(folder, "host"), GREENBOOST_AGENT_RAM_BUDGET=str(4 * GIB))
        stack.callback(lambda: subprocess.run([*machine.CLI, "agent", "stop", "--force"], env=host.env, timeout=60))
        run = [*machine.CLI, "run", "--vram-budget", str(256 * MIB), "--", *command]
        _start_seconds(run, host.env, 1)  # starts the agent
        taken = _start_seconds(run, host.env, times)
        pid = json.loads(host.call("agent", "status", "--json"))["agentPid"]
        return {"greenboostRunSeconds": statistics.median(taken), "agentResidentMiB": _resident_mib(pid)}


def footprint(options):
    """Added start-up time of a program; resident set of the agent."""
    command = [common.nvcc(PROGRAMS / "link.cu"), "start"]
    times = 3 if options.small else 10
    native, shim = [], []
    _start_seconds(command, None, 1)
    for _ in range(times):  # interleaved
        native += _start_seconds(command, None, 1)
        shim += _start_seconds(command, common.shim_environment(vram=256 * MIB, ram=GIB), 1)
    figures = {
        "nativeSeconds": round(statistics.median(native), 4),
        "shimSeconds": round(statistics.median(shim), 4),
        "addedMilliseconds": round((statistics.median(shim) - statistics.median(native)) * 1e3, 2),
    }
    if shutil.which("node") and (common.BUILD / "js").exists():
        figures.update(_with_agent(command, times))
        added = figures["greenboostRunSeconds"] - statistics.median(native)
        figures["addedByRunMilliseconds"] = round(added * 1e3, 1)
    else:
        print("  the agent is left out: no Node.js or no build/js here", flush=True)
    return figures, []


def remap(_options):
    """What mapping and unmapping cost here, and whether the CPU's mapping answers where the GPU has none."""
    program = common.nvcc(PROGRAMS / "remap_costs.cu")
    figures = common.run([program])[0]
    shadow = common.run([program, "shadow"])[0]
    return {**figures, "shadow": shadow}, []


BENCHES = {
    "torch": torch,
    "graphs": graphs,
    "engine-decode": engine_decode,
    "engine-prefill": engine_prefill,
    "train": train,
    "fits": fits,
    "random": random_access,
    "footprint": footprint,
    "launch": launch,
    "remap": remap,
}

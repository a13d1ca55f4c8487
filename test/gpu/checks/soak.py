# SPDX-License-Identifier: Apache-2.0
"""Random budgets, sizes, threads and kills for GREENBOOST_SOAK_SECONDS (300): every word right, nothing hangs, counters
return to zero, the GPU's memory is as before. GREENBOOST_SOAK_SEED (the time) repeats a run's choices."""
import contextlib
import os
import random
import subprocess
import time

import common
from common import GIB, MIB

PROGRAM_LIMIT_SECONDS = 60
RETURN_LIMIT_SECONDS = 5
MEMORY_SLACK = 8 * MIB
SPARE_SLAB_BYTES = 2 * MIB  # of VRAM, kept for the next small allocation
PROBLEMS_MAX = 20


def choose(rng, program):
    """One program: (command, environment, seconds until it is killed or None, words for people)."""
    threads = rng.choice([1, 1, 2, 4])
    buffer = rng.choice([1 * MIB, 2 * MIB, 8 * MIB, 24 * MIB, 64 * MIB, rng.randrange(1 * MIB, 40 * MIB)])
    each = max(2 * buffer, rng.randrange(64 * MIB, 1024 * MIB) // threads)
    arguments = ["--bytes", each, "--buffer-bytes", buffer, "--threads", threads, "--seed", rng.randrange(1 << 30),
                 "--rounds", rng.randrange(2, 60), "--sync", rng.choice(["none", "none", "wait", "callback"])]
    arguments += rng.sample(["--random", "--one-buffer"], rng.choice([0, 0, 1, 2]))
    vram = max(16 * MIB, common.whole_chunks(each * threads * rng.uniform(0.15, 1.2)))
    variables = {"GREENBOOST_STAGING": rng.choice(["auto", "always", "always", "off"])}
    if rng.random() < 0.3:
        variables["GREENBOOST_FRAMES"] = common.whole_chunks(vram * rng.uniform(0.1, 0.7))
    kill_after = rng.uniform(0.2, 4) if rng.random() < 0.25 else None
    if kill_after is not None:
        arguments += ["--seconds", 10]
    words = " ".join(str(a) for a in (*arguments, "vram", vram, *variables.items(), "kill", kill_after))
    return [program, *arguments], common.shim_environment(vram=vram, ram=4 * GIB, **variables), kill_after, words


def finish(running, kill_after, words, totals, problems):
    if kill_after is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(max(0, running.start + kill_after - time.monotonic()))
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
            totals["killed"] += 1
            return
    try:
        _, stats, _ = running.result(PROGRAM_LIMIT_SECONDS)
    except RuntimeError as error:
        problems.append(f"{error}: {words}"[:1000])
        return
    totals["ended"] += 1
    totals["remaps"] += stats.get("remapCount", 0)
    totals["launches"] += stats["launchCount"]
    spare = {"vramUsedBytes": SPARE_SLAB_BYTES}
    left = {key: value for key, value in stats.items() if key.endswith("UsedBytes") and value > spare.get(key, 0)}
    if left or stats["allocatedBytes"] or stats["allocationCount"]:
        problems.append(f"still counted at the end: {left}, {stats['allocationCount']} allocations: {words}")
    if stats["vramPeakBytes"] > stats["vramBudgetBytes"]:
        problems.append(f"VRAM over the budget: {stats['vramPeakBytes']}: {words}")


def memory_returns(before, problems):
    deadline = time.monotonic() + RETURN_LIMIT_SECONDS
    while common.gpu_used_bytes() > before + MEMORY_SLACK:
        if time.monotonic() > deadline:
            problems.append(f"{common.gpu_used_bytes() - before} bytes of GPU memory did not come back")
            return
        time.sleep(0.05)


def check():
    program = common.nvcc("cycle.cu")
    seconds = float(os.environ.get("GREENBOOST_SOAK_SECONDS", "300"))
    seed = int(os.environ.get("GREENBOOST_SOAK_SEED", time.time()))
    rng, problems = random.Random(seed), []
    totals = {"seconds": seconds, "seed": seed, "ended": 0, "killed": 0, "remaps": 0, "launches": 0}
    before = common.gpu_used_bytes()
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(problems) < PROBLEMS_MAX:
        with contextlib.ExitStack() as stack:
            started = []
            for _ in range(rng.choice([1, 1, 2, 3])):
                command, env, kill_after, words = choose(rng, program)
                running = stack.enter_context(contextlib.closing(common.Running(command, env)))
                started.append((running, kill_after, words))
            # Those to be killed come first: their time runs already.
            for running, kill_after, words in sorted(started, key=lambda s: (s[1] is None, s[1] or 0)):
                finish(running, kill_after, words, totals, problems)
        memory_returns(before, problems)
    return totals, problems

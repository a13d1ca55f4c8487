#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""All benches of the fabric that this machine can run, and one table.

    python3 bench/fabric/run.py [--out build/bench] [--mebibytes 1024] [--rounds 15] [--upload-mebibytes 3072]
                                [lane upload shim vram leases flat]

lane     lanes beside plain C over TCP, on loopback and delay links (run.sh)
upload   the same content stored twice: bytes on the wire
shim     evictions and fetches of a program under the shim beside a lane of nothing else
vram     VRAM of a feeder read into VRAM of the host; with a GPU `python3 test/gpu/run.py fabric-vram` keeps the result,
         without one the simulated driver shows that it works

leases   an idle agent with 64 feeders and 1,024 leases: its CPU and memory (leases.mjs)
flat     10 GB of a program's bytes beside the agent and the feeder daemons: none passes through them (agent-flat.mjs)

Each but vram writes fabric-NAME.json into the folder. Needs a C compiler, Node.js for all but lane, root or user
namespaces for the delay links and for counting what crosses loopback. The machine should be idle otherwise.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

from steps import BUILD, MIB, ROOT

NAMES = ("lane", "upload", "shim", "vram", "leases", "flat")
LOAD_MOST = 1.0
VRAM_ROUNDS = 11


def load():
    return round(os.getloadavg()[0], 2)


def hardware():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release()}


def has_gpu():
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    except OSError:
        return False


# ---- each bench: figures, measured here or in a process of its own ----


def lane(args):
    file = BUILD / "bench" / "fabric-lane.json"
    command = [ROOT / "bench" / "fabric" / "run.sh", args.mebibytes, args.rounds, file]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text())


def upload(args):
    return alone("upload", args.upload_mebibytes * MIB)


def shim(args):
    return alone("shim", min(args.mebibytes, 512) * MIB, args.rounds)


def vram(args):
    import vram as bench

    environment = dict(os.environ)
    size, rounds = 4096, VRAM_ROUNDS
    if not has_gpu():
        size, rounds = min(args.mebibytes, 512), min(args.rounds, 3)
        environment.update(LD_LIBRARY_PATH=str(BUILD / "lib" / "sim"), GBSIM_GPU=f"fabric-{os.getpid()}",
                           GBSIM_VRAM=str(4 * size * MIB))
    return bench.measure(size, rounds, environment)


def leases(_args):
    return node("leases.mjs")


def flat(_args):
    return node("agent-flat.mjs")


def node(script):
    """returns: what a bench in JavaScript prints; its exit status only repeats its figures."""
    done = subprocess.run(["node", str(ROOT / "bench" / "fabric" / script)], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def alone(module, *numbers):
    """Calls measure() of a module in a network namespace of its own, where nobody else's bytes are counted."""
    call = f"import json, {module}; print(json.dumps({module}.measure({', '.join(map(str, numbers))})))"
    inside = 'ip link set lo up && exec "$0" -c "$1"'
    spaces = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"])
    done = subprocess.run([*spaces, "sh", "-c", inside, sys.executable, call], stdout=subprocess.PIPE, text=True,
                          cwd=pathlib.Path(__file__).parent, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ---- the table: (figure, measured, wanted, whether it is met; None: nothing is demanded) ----


def at_least(figure, value, wanted):
    return figure, f"{value:.3f}", f">= {wanted}", value >= wanted


def at_most(figure, value, wanted):
    return figure, f"{value:.3f}", f"<= {wanted}", value <= wanted


def lane_rows(result):
    here, wanted = result["loopback"], result["loopback"]["fetch64KiB"]["wanted"]
    ways = {"loopback": "loopback", "10 Gbit/s, 0.17 ms": "link10Gbit", "1 Gbit/s, 1 ms": "link1Gbit"}
    for title, part in ways.items():
        for count, name in (("one connection", "oneConnection"), ("two connections", "twoConnections")):
            row = result[part][name]
            yield at_least(f"{title}, {count}, over plain TCP", row["ratioMedian"], row["wanted"])
    for side in ("client", "server"):
        use = here["oneConnection"]["cpuSecondsPerGB"]
        yield at_most(f"CPU seconds per GB, {side}", use[side], use["wanted"])
    yield at_most("64 KiB on an idle lane over a plain echo", here["fetch64KiB"]["overEcho"], wanted["overEcho"])
    yield at_most("64 KiB during bulk, p99 over idle p99", here["fetch64KiB"]["p99OverIdleP99"],
                  wanted["p99OverIdleP99"])


def upload_rows(result):
    share = result["secondOverContent"]
    met = share <= result["wanted"] and result["right"]
    gb = result["contentBytes"] / 1e9
    yield f"second upload of {gb:.2f} GB, share on the wire", f"{share:.2%}", f"<= {result['wanted']:.0%}", met


def shim_rows(result):
    for way in ("evict", "fetch"):
        row = result[way]
        what = f"{way} through the shim, GB/s (lane alone: {row['laneMedianGBps']})"
        yield what, f"{row['medianGBps']:.3f}", f"ratio {row['ratioMedian']}", None


def vram_rows(result):
    what = "feeder VRAM into host VRAM, over the slower of lane and PCIe"
    if result["simulated"]:
        yield what, "works", "simulated GPU: no figure", None
    else:
        yield at_least(what, result["readRatioMedian"], result["wanted"])


def leases_rows(result):
    what = f"idle agent, {result['feeders']} feeders, {result['leases']} leases"
    yield at_most(f"{what}: share of a core", result["cpuShare"], result["cpuShareMax"])
    yield at_most(f"{what}: RSS, MB", result["rssBytes"] / 1e6, result["rssBytesMax"] / 1e6)


def flat_rows(result):
    gb, agent = result["movedBytes"] / 1e9, result["agent"]
    met = result["flat"] and result["right"]
    yield f"{gb:.1f} GB moved: bytes the agent read or wrote, MB", f"{agent['ioBytes'] / 1e6:.3f}", "<= 0.1%", met
    yield f"{gb:.1f} GB moved: growth of the agent, MB", f"{agent['rssGrowthBytes'] / 1e6:.1f}", "<= 50", met
    yield "CPU seconds of the agent per GB", f"{agent['cpuSecondsPerGB']:.3f}", "", None


ROWS = {"lane": lane_rows, "upload": upload_rows, "shim": shim_rows, "vram": vram_rows, "leases": leases_rows,
        "flat": flat_rows}


def keep(args, name, figures, before):
    """Writes a result with the machine, the date and the command."""
    command = f"python3 bench/fabric/run.py --mebibytes {args.mebibytes} --rounds {args.rounds}"
    if name == "upload":
        command = f"python3 bench/fabric/run.py --upload-mebibytes {args.upload_mebibytes}"
    result = {"check": f"fabric-{name}", "date": datetime.date.today().isoformat(), "command": f"{command} {name}",
              **hardware(), "loadBefore": before, "loadAfter": load(), **figures}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"fabric-{name}.json").write_text(json.dumps(result) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=BUILD / "bench")
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--upload-mebibytes", type=int, default=3072)
    parser.add_argument("benches", nargs="*")
    args = parser.parse_args()
    args.out = args.out.resolve()
    if unknown := set(args.benches) - set(NAMES):
        parser.error(f"no such bench: {' '.join(unknown)}")
    if load() > LOAD_MOST:
        print(f"the load is {load()}: others use this machine, so rates will be theirs as well", file=sys.stderr)
    rows, failed = [], 0
    for name in args.benches or NAMES:
        before = load()
        print(f"== {name}", file=sys.stderr, flush=True)
        try:
            figures = globals()[name](args)
        except (RuntimeError, OSError, subprocess.CalledProcessError, ValueError) as error:
            failed += 1
            rows.append((name, "failed", str(error)[:60], False))
            continue
        if name != "vram":
            keep(args, name, figures, before)
        rows += ROWS[name](figures)
    width = max(len(row[0]) for row in rows)
    for figure, value, wanted, met in rows:
        verdict = "" if met is None else "met" if met else "MISSED"
        print(f"{figure:<{width}}  {value:>8}  {wanted:<24} {verdict}".rstrip())
    return 1 if failed or any(row[3] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decoding with layers on a feeder whose kernels run there (docs/adr/0013-dispatch.md), on a simulated GPU.

    python3 bench/dispatch/run.py [--out build/bench] [--layers 12] [--layer-mebibytes 4] [--rows 2] [--tokens 48]
                                  [--rounds 3] [native loopback link80us link200us]

native     gb_layers on one simulated GPU that holds all of it, without GreenBoost
loopback   a third of it on the host, two thirds on a feeder on the same machine, launches made where the data lie
link80us   the same behind a delay link with a round trip of 80 us
link200us  and of 200 us

The GPU is simulated: its kernels are loops on this machine's CPU, so times say nothing of a GPU. What does carry over
is counted: crossings for each token, bytes of a visit, what a launch costs the program's thread. Real figures come from
`python3 test/gpu/run.py dispatch`. Needs a C compiler, Node.js, root or user namespaces.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

from machines import BUILD, CLI, MIB, ROOT, pair, simulated

sys.path.insert(0, str(ROOT / "test" / "gpu"))
import common  # noqa: E402

WAYS = {"native": None, "loopback": None, "link80us": 80, "link200us": 200}
KV_BYTES = 2 * MIB  # of each layer
FIRST = 6 * MIB  # small allocations, workspace and table: what the program allocates before its layers
OTHERS = 16 * MIB  # the same, the head, and some room
SIMULATED = "simulated GPU: times are those of this machine's CPU and say nothing of a GPU"
CROSSINGS_WANTED = 2
INSIDE = "GREENBOOST_BENCH_NAMESPACE"


def build():
    """Outside of the namespace: a first build loads packages."""
    subprocess.run(["make", "-s", "natives", "js", "build/test/net/delaylink"], cwd=ROOT, check=True, stdout=sys.stderr)


def enter_namespace():
    """Runs this program again in a network namespace of its own, with rights over it."""
    spaces = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"])
    command = 'ip link set lo up && exec "$0" "$@"'
    os.environ[INSIDE] = "1"
    os.execvp(spaces[0], [*spaces, "sh", "-c", command, sys.executable, *sys.argv])


def program(args):
    sizes = ["--layers", args.layers, "--layer-bytes", args.layer_mebibytes * MIB, "--kv-bytes", KV_BYTES]
    return [BUILD / "bin" / "gb_layers", *sizes, "--batch-rows", args.rows, "--tokens", args.tokens, "--no-reference"]


def sizes_of(args):
    """returns: bytes of all layers, and the VRAM that holds a third of them, whole ones, and what comes before."""
    layer = args.layer_mebibytes * MIB + KV_BYTES
    return args.layers * layer, args.layers // 3 * layer + FIRST


def native(args):
    layers, _ = sizes_of(args)
    environment = {**os.environ, **simulated("native", 2 * layers + 4 * OTHERS),
                   "LD_LIBRARY_PATH": str(BUILD / "lib" / "sim")}
    return common.run(program(args), environment)[0], None


def merged(args, host):
    _, vram = sizes_of(args)
    with tempfile.NamedTemporaryFile(suffix=".json") as stats:
        limits = ["--gpu", "sim", "--vram-budget", vram, "--ram-budget", 0, "--stats-file", stats.name]
        result, _, _ = common.run([*CLI, "run", *limits, "--remote", "merged", "--", *program(args)], host.env)
        return result, json.loads(pathlib.Path(stats.name).read_text())


def row_of(results):
    """returns: the figures of one way, from its rounds."""
    first, counted = results[0]
    rates = [result["launches"] / result["milliseconds"] * 1e3 for result, _ in results]
    row = {
        "tokenMilliseconds": [result["token_milliseconds"] for result, _ in results],
        "tokenMillisecondsMedian": round(statistics.median(result["token_milliseconds"] for result, _ in results), 3),
        "launchesPerSecond": round(statistics.median(rates)),
        "launchCpuMicros": round(statistics.median(result["launch_cpu_us"] for result, _ in results), 2),
        "tokensSum": first["tokens_sum"],
        "logits": first["logits"],
        "same": len({(result["tokens_sum"], result["logits"]) for result, _ in results}) == 1,
    }
    return row if counted is None else {**row, **visits_of(first, counted)}


def visits_of(result, counted):
    """What went to the feeder and back for each token, of one run."""
    owners = counted["launchOwners"]
    total = {name: sum(owner[name] for owner in owners) for name in
             ("launchCount", "crossingCount", "crossingSentBytes", "crossingReceivedBytes")}
    crossed = total["crossingSentBytes"] + total["crossingReceivedBytes"]
    return {
        "dispatched": counted["dispatchedCount"],
        "undispatched": {name: n for name, n in counted.items() if name.startswith("undispatched") and n},
        "launches": result["launches"],
        "crossingsPerToken": round(total["crossingCount"] / result["steps"], 2),
        "crossingBytesPerToken": round(crossed / result["steps"]),
        "visitBytesOverActivation": round(crossed / max(1, total["crossingCount"]) / result["activation_bytes"], 2),
    }


def measure(args, way):
    layers, vram = sizes_of(args)
    if way == "native":
        return row_of([native(args) for _ in range(args.rounds)])
    with pair(2 * layers + 4 * OTHERS, layers + OTHERS, WAYS[way]) as host:
        return row_of([merged(args, host) for _ in range(args.rounds)])


def table(rows):
    """Lines: figure, then one column for each way."""
    figures = {
        "ms per token, median": "tokenMillisecondsMedian",
        "launches per second": "launchesPerSecond",
        "CPU of the program's thread per launch, us": "launchCpuMicros",
        "launches made on the feeder": "dispatched",
        "crossings per token (wanted: 2)": "crossingsPerToken",
        "bytes per crossing over activations": "visitBytesOverActivation",
    }
    width = max(map(len, figures))
    yield " " * width + "".join(f"{way:>12}" for way in rows)
    for title, name in figures.items():
        yield f"{title:<{width}}" + "".join(f"{row.get(name, '-'):>12}" for row in rows.values())


def problems_of(rows):
    each = {(row["tokensSum"], row["logits"]) for row in rows.values()}
    if len(each) > 1 or not all(row["same"] for row in rows.values()):
        yield "not all ways give the same tokens and logits"
    for way, row in rows.items():
        if way != "native" and row["crossingsPerToken"] > CROSSINGS_WANTED * 1.5:
            yield f"{way}: {row['crossingsPerToken']} crossings a token, wanted {CROSSINGS_WANTED}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=BUILD / "bench")
    for name, value in {"layers": 12, "layer-mebibytes": 4, "rows": 2, "tokens": 48, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("ways", nargs="*")
    args = parser.parse_args()
    if unknown := set(args.ways) - set(WAYS):
        parser.error(f"no such way: {' '.join(unknown)}")
    if INSIDE not in os.environ:
        build()
        enter_namespace()
    before = os.getloadavg()[0]
    rows = {way: measure(args, way) for way in args.ways or WAYS}
    problems = list(problems_of(rows))
    result = {"check": "dispatch", "date": datetime.date.today().isoformat(), "simulated": SIMULATED,
              "command": "python3 " + " ".join([os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
              "cores": os.cpu_count(), "kernel": platform.release(), "loadBefore": round(before, 2),
              "problems": problems, "ways": rows}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "dispatch-simulated.json").write_text(json.dumps(result, indent=1) + "\n")
    print(SIMULATED)
    print("\n".join(table(rows)))
    for problem in problems:
        print(f"PROBLEM {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

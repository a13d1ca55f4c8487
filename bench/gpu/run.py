#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benches on a real NVIDIA GPU, writes a JSON result each, draws the charts and prints the table of figures.

    python3 bench/gpu/run.py [--budgets 0.25,0.5,0.75] [--pairs 12] [--out bench/results] [--charts docs/charts]
                             [torch graphs engine-decode engine-prefill train fits random footprint launch remap]

Needs: a GPU, RAM for the overflow, gcc, nvcc, PyTorch, transformers and accelerate; Node.js and `make js` for the
agent's part of footprint.
The figures are those at a budget of 0.5: half of what the program takes by itself.
"""
import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "test" / "gpu"))

import common  # noqa: E402
from benches import BENCHES, Options  # noqa: E402
from charts import draw_all  # noqa: E402
from figures import table  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=common.ROOT / "bench" / "results")
    parser.add_argument("--charts", type=pathlib.Path, default=common.ROOT / "docs" / "charts")
    parser.add_argument("--budgets", default="0.25,0.5,0.75")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="only see whether everything runs: two layers, few passes")
    parser.add_argument("benches", nargs="*")
    args = parser.parse_args()
    if unknown := set(args.benches) - set(BENCHES):
        parser.error(f"no such bench: {' '.join(unknown)}")
    options = Options(tuple(float(f) for f in args.budgets.split(",")), args.pairs, args.small)
    common.build_natives()
    results = {}
    for name in args.benches or BENCHES:
        command = f"python3 bench/gpu/run.py --budgets {args.budgets} --pairs {args.pairs} {name}"
        results[name] = common.record(args.out, "bench", name, command, lambda: BENCHES[name](options))
    for file in draw_all(args.out, args.charts):
        print(file)
    lines, missed = table(results)
    print("\n" + "\n".join(lines))
    problems = sum(len(result["problems"]) for result in results.values())
    print(f"{missed} figures missed, {problems} problems")
    return 1 if missed or problems else 0


if __name__ == "__main__":
    sys.exit(main())

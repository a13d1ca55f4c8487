#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the checks that need a real NVIDIA GPU and writes one JSON result per check.

    python3 test/gpu/run.py [--out bench/results] [overflow llama llama-feeder feeder-gpu …]

Needs: a GPU, gcc, nvcc; PyTorch, transformers, JAX and CuPy for the checks that use them; Node.js and `make js` for
llama-feeder and feeder-gpu.
"""
import argparse
import datetime
import importlib
import json
import pathlib
import sys
import time
import traceback

import common

CHECKS = ["overflow", "llama", "llama-feeder", "feeder-gpu", "overhead", "frameworks"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(common.ROOT / "bench" / "results"))
    parser.add_argument("checks", nargs="*", default=CHECKS)
    args = parser.parse_args()
    common.build_natives()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in args.checks or CHECKS:
        start = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            module = importlib.import_module(f"checks.{name.replace('-', '_')}")
            figures, problems = module.check()
        except Exception as error:  # a check that cannot run has failed
            traceback.print_exc()
            figures, problems = {}, [f"{type(error).__name__}: {error}"[:2000]]
        result = {
            "check": name,
            "date": datetime.date.today().isoformat(),
            "command": f"python3 test/gpu/run.py {name}",
            "hardware": common.hardware(),
            "seconds": round(time.monotonic() - start, 1),
            "passed": not problems,
            "problems": problems,
            "figures": figures,
        }
        (out / f"gpu-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(figures, indent=1))
        for problem in problems:
            print(f"PROBLEM {problem}")
        failed += bool(problems)
    total = len(args.checks or CHECKS)
    print(f"{total - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.exit(main())

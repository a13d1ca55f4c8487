#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the checks that need a real NVIDIA GPU and writes one JSON result per check.

    python3 test/gpu/run.py [--out bench/results] [overflow llama llama-feeder feeder-gpu …]

Needs: a GPU, gcc, nvcc; PyTorch, transformers, JAX and CuPy for the checks that use them; Node.js and `make js` for
llama-feeder, feeder-gpu, dispatch and devices; two GPUs for nccl and devices. What a machine lacks is left out, with
one line.
"""
import argparse
import importlib
import json
import pathlib
import sys

import common

CHECKS = [
    "overflow", "llama", "llama-feeder", "feeder-gpu", "overhead", "frameworks", "budget", "waits", "two-programs",
    "nccl", "nvme", "soak", "frame-kernels", "blocks", "suite", "identical",
    "graphs", "ipc", "fabric-vram", "dispatch", "devices",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(common.ROOT / "bench" / "results"))
    parser.add_argument("checks", nargs="*", default=CHECKS)
    args = parser.parse_args()
    common.build_natives()
    counts = {"passed": 0, "failed": 0, "left out": 0}
    for name in args.checks or CHECKS:
        def work(module=f"checks.{name.replace('-', '_')}"):
            return importlib.import_module(module).check()

        result = common.record(pathlib.Path(args.out), "gpu", name, f"python3 test/gpu/run.py {name}", work)
        if "figures" in result:
            print(json.dumps(result["figures"], indent=1))
        counts["left out" if "leftOut" in result else "failed" if result["problems"] else "passed"] += 1
    print(", ".join(f"{count} {what}" for what, count in counts.items() if count or what != "left out"))
    return 1 if counts["failed"] else 0


sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.exit(main())

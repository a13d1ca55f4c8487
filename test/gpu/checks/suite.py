# SPDX-License-Identifier: Apache-2.0
"""The CUDA C suite: one program for each group of entry points, bit-identical at half of its native peak."""
import concurrent.futures
import os

import common
from checks import halves

# Name: flags for nvcc.
PROGRAMS = {
    "streams": (),
    "graphs": (),
    "pools": (),
    "shapes": (),
    "tables": (),
    "tma": (),
    "cooperative": (),
    "callbacks": ("-lcuda",),
    "textures": (),
    "host_memory": (),
    "threads": ("--default-stream", "per-thread"),
    "contexts": ("-lcuda",),
    "attributes": ("-lcuda",),
}


def check():
    wanted = [name for name in os.environ.get("GREENBOOST_SUITE", "").split(",") if name] or list(PROGRAMS)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # The compiler is a process of its own.
        built = dict(zip(wanted, pool.map(lambda name: common.nvcc(f"suite/{name}.cu", *PROGRAMS[name]), wanted)))
    rows, problems = [], []
    for name in wanted:
        row, found = halves.half(name, [built[name]])
        rows.append(row)
        problems += found
    return {"programs": rows}, problems

# SPDX-License-Identifier: Apache-2.0
"""Frameworks, unmodified, at half of the VRAM they take by themselves: bit-identical results while memory moves."""
import os
import sys

import common
from checks import halves

DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
EXPANDABLE = "expandable_segments:True"
SEGMENTS = {**DETERMINISTIC, "PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE, "PYTORCH_ALLOC_CONF": EXPANDABLE}
# Name: program, arguments, environment.
PROGRAMS = {
    "torch-eager": ("torch_program.py", ["eager"], DETERMINISTIC),
    "torch-compile": ("torch_program.py", ["compile"], DETERMINISTIC),
    "torch-train": ("torch_program.py", ["train"], DETERMINISTIC),
    "torch-segments": ("torch_program.py", ["train"], SEGMENTS),
    # XLA times candidate kernels when it compiles; the choice must not depend on where the memory lies.
    "jax": (
        "jax_program.py", ["24"],
        {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": "--xla_gpu_autotune_level=0"},
    ),
    "cupy": ("cupy_program.py", ["24"], {}),
    "triton": ("triton_program.py", [], {}),
    "numba": ("numba_program.py", [], {}),
}


def check():
    wanted = [name for name in os.environ.get("GREENBOOST_IDENTICAL", "").split(",") if name] or list(PROGRAMS)
    rows, problems = [], []
    for name in wanted:
        program, arguments, environment = PROGRAMS[name]
        row, found = halves.half(name, [sys.executable, common.PROGRAMS / program, *arguments], environment)
        rows.append(row)
        problems += found
    return {"programs": rows}, problems

# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs whole, in pieces, and in pieces while memory moves: the same bits as native. gb_graphs builds random
graphs, changes them between launches and compares every word with the CPU; the PyTorch program captures a decode and
a training step."""
import os
import sys

import common
from common import GIB, MIB

# Name: buffers of 16 MiB, budgets and the piece for gb_graphs; then for PyTorch.
RANDOM = [common.BUILD / "bin" / "gb_graphs", "1", "40", "24", "16"]
RANDOM_MEMORY = {"vram": 192 * MIB, "ram": 2 * GIB}
TORCH = [sys.executable, common.PROGRAMS / "torch_graphs_program.py"]
TORCH_MEMORY = {"vram": 768 * MIB, "ram": 8 * GIB}
MODES = {
    "whole": {"GREENBOOST_STAGING": "off"},
    "pieces": {"GREENBOOST_STAGING": "off", "GREENBOOST_GRAPH_SEGMENT": "64MiB"},
    "staged": {"GREENBOOST_STAGING": "always", "GREENBOOST_GRAPH_SEGMENT": "64MiB"},
}


def rows_of(name, command, memory, modes, environment):
    """Native first, then each mode: its row, and what is wrong with it."""
    native, _, seconds = common.run(command, {**os.environ, **environment})
    rows, problems = [{"program": name, "mode": "native", "seconds": round(seconds, 1)}], []
    for mode in modes:
        result, stats, seconds = common.run(
            command, common.shim_environment(**memory, **environment, **MODES[mode])
        )
        row = {
            "program": name,
            "mode": mode,
            "identical": result["digest"] == native["digest"],
            "graphsInPieces": stats["graphSplitCount"],
            "graphsWhole": stats["graphWholeCount"],
            "remaps": stats["remapCount"],
            "ramPeakBytes": stats["ramPeakBytes"],
            "seconds": round(seconds, 1),
        }
        for figure in ("launches", "changes", "mismatches"):
            if figure in result:
                row[figure] = result[figure]
        rows.append(row)
        if not row["identical"] or row.get("mismatches", 0) != 0:
            problems.append(f"{name}, {mode}: other results than native")
        if mode != "whole" and row["graphsInPieces"] == 0:
            problems.append(f"{name}, {mode}: no graph ran in pieces")
        if mode == "staged" and row["remaps"] == 0:
            problems.append(f"{name}, {mode}: nothing was remapped")
    return rows, problems


def check():
    rows, problems = rows_of("gb_graphs", RANDOM, RANDOM_MEMORY, ["whole", "pieces", "staged"], {})
    torch_environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    more, found = rows_of("torch", TORCH, TORCH_MEMORY, ["pieces", "staged"], torch_environment)
    return {"runs": rows + more}, problems + found

# SPDX-License-Identifier: Apache-2.0
"""The figures we hold ourselves to: what they must be, what we aim at, and where each is found in the results."""
import dataclasses
import typing

from sweep import find

HALF = 0.5


@dataclasses.dataclass(frozen=True)
class Figure:
    name: str
    bench: str
    must: float
    aim: typing.Optional[float]
    read: typing.Callable  # the bench's figures -> a number, or None where it was not measured
    least: bool = True  # at least `must`; else at most
    unit: str = ""

    def holds(self, value) -> bool:
        return value >= self.must if self.least else value <= self.must


def over_bound(phase):
    def read(figures):
        terms = find(figures, "ours", HALF, phase)
        return terms and terms["overBound"]

    return read


def faster_than_accelerate(phase):
    def read(figures):
        ours, theirs = find(figures, "ours", HALF, phase), find(figures, "accelerate", HALF, phase)
        return ours and theirs and round(theirs["measuredSeconds"] / ours["measuredSeconds"], 3)

    return read


def ratio(name, what):
    """what: "median", or "low" for the lower end of the 95 % interval."""
    return lambda figures: figures[name]["ratio"][what]


def added_nanoseconds(figures):
    return round(max(p["shimNanoseconds"] - p["nativeNanoseconds"] for p in figures["parameters"].values()), 1)


FIGURES = [
    Figure("decode, PyTorch eager: over the bound", "torch", 0.80, 0.93, over_bound("decode")),
    Figure("prefill of 2048 tokens, PyTorch eager: over the bound", "torch", 0.80, 0.93,
           over_bound("prefill")),
    Figure("decode, torch.compile with CUDA graphs: over the bound", "graphs", 0.70, 0.85, over_bound("decode")),
    Figure("decode against accelerate offload", "torch", 3, None, faster_than_accelerate("decode"), unit="x"),
    Figure("prefill against accelerate offload", "torch", 4, None, faster_than_accelerate("prefill"), unit="x"),
    Figure("decode, C and cuBLAS in a CUDA graph: over the bound", "engine-decode", 0.85, 0.93,
           over_bound("decode")),
    Figure("prefill, C and cuBLAS in a CUDA graph: over the bound", "engine-prefill", 0.70, 0.85,
           over_bound("prefill")),
    Figure("everything fits, CUDA graphs: over native, low end", "fits", 0.985, 0.995, ratio("graph", "low")),
    Figure("everything fits, C and cuBLAS launches: over native, low end", "fits", 0.985, 0.995,
           ratio("launch", "low")),
    Figure("one hooked launch", "launch", 150, 60, added_nanoseconds, least=False, unit=" ns"),
    Figure("training step, AdamW, half in RAM: over the bound", "train", 0.65, 0.85, over_bound("train")),
    Figure("random rows of one table: over in place, low end", "random", 0.95, None, ratio("oneTable", "low")),
    Figure("random rows of random tables: over in place, low end", "random", 0.95, None, ratio("randomTables", "low")),
    Figure("added start-up of a program", "footprint", 100, None, lambda f: f["addedMilliseconds"], least=False,
           unit=" ms"),
    Figure("the same with `greenboost run`, agent running", "footprint", 100, None,
           lambda f: f.get("addedByRunMilliseconds"), least=False, unit=" ms"),
    Figure("resident set of the agent", "footprint", 150, None, lambda f: f.get("agentResidentMiB"), least=False,
           unit=" MiB"),
]


def table(results: dict) -> tuple:
    """results: {bench: result of common.record}. returns: (lines, how many figures are missed)."""
    lines, missed = [f"{'figure':62} {'must':>9} {'aim':>7} {'measured':>11}"], 0
    for figure in FIGURES:
        result = results.get(figure.bench)
        if result is None:
            continue
        value = figure.read(result["figures"]) if result.get("figures") else None
        sign = ">=" if figure.least else "<="
        shown = "-" if value is None else f"{value:g}{figure.unit}"
        verdict = "not measured" if value is None else "ok" if figure.holds(value) else "MISSED"
        missed += value is not None and verdict == "MISSED"
        aim = "" if figure.aim is None else f"{figure.aim:g}"
        lines.append(f"{figure.name:62} {sign + f' {figure.must:g}':>9} {aim:>7} {shown:>11}  {verdict}")
    return lines, missed

# SPDX-License-Identifier: Apache-2.0
"""One program, native and then under several VRAM budgets: staged (ours), read in place, and by others' means."""
import common
from bound import bound, link, seconds_of
from common import GIB

RAM = 48 * GIB
SERIES = {"ours": {}, "inPlace": {"GREENBOOST_STAGING": "off"}}
COUNTED = (
    "vramPeakBytes", "ramPeakBytes", "stagedInBytes", "stageOutBytes", "stageCleanBytes", "remapCount", "switchCount",
    "switchAbandonedCount", "switchMicros", "frameBytes", "graphSplitCount", "staging", "orderPercent", "stallMicros",
)


def _row(series, fraction, budget, native, result, stats, seconds):
    frames = (stats or {}).get("frameBytes", 0)
    return {
        "series": series,
        "fraction": fraction,
        "budgetBytes": budget,
        "wallSeconds": round(seconds, 1),
        "phases": {
            name: bound(native["phases"][name], phase, budget, frames)
            if stats
            else {"measuredSeconds": round(seconds_of(phase), 6), "passes": len(phase["seconds"])}
            for name, phase in result["phases"].items()
        },
        "counted": {name: stats[name] for name in COUNTED if name in stats} if stats else None,
    }


def _problems(row, native, result):
    name = f"{row['series']} at {row['fraction']} of the peak"
    if result["results"] != native["results"]:
        yield f"{name}: other results than native"
    if row["counted"] and row["counted"]["vramPeakBytes"] > row["budgetBytes"]:
        yield f"{name}: {row['counted']['vramPeakBytes']} bytes of VRAM, over the budget"


def sweep(command, fractions, shorter=(), others=None):
    """Runs `command` native, then for each fraction of its peak as the VRAM budget.

    shorter: arguments added where overflow is read in place (fewer passes; the results must not depend on them).
    others: {series: budget -> command} of programs without the shim that get the same VRAM.
    returns: (figures, problems). Every result is compared with the native one.
    """
    native, _, seconds = common.run(command)
    rows, problems = [], []
    print(f"  native {seconds:.1f} s", flush=True)

    def add(series, fraction, budget, command, env):
        try:
            result, stats, seconds = common.run(command, env)
        except RuntimeError as error:
            problems.append(f"{series} at {fraction} of the peak: {error}"[:2000])
            return
        row = _row(series, fraction, budget, native, result, stats, seconds)
        problems.extend(_problems(row, native, result))
        rows.append(row)
        for name, terms in row["phases"].items():
            print(f"  {series} {fraction} {name}: {terms}", flush=True)
        print(f"  {series} {fraction}: {row['wallSeconds']} s, {row['counted']}", flush=True)

    for fraction in fractions:
        budget = common.whole_chunks(native["peakBytes"] * fraction)
        for series, variables in SERIES.items():
            env = common.shim_environment(vram=budget, ram=RAM, **variables)
            add(series, fraction, budget, [*command, *(shorter if series == "inPlace" else ())], env)
        for series, make in (others or {}).items():
            add(series, fraction, budget, make(budget), None)
    figures = {
        "link": link(),
        "native": {
            "peakBytes": native["peakBytes"],
            "results": native["results"],
            "seconds": {name: round(seconds_of(phase), 6) for name, phase in native["phases"].items()},
        },
        "rows": rows,
    }
    return figures, problems


def find(figures, series, fraction, phase):
    """The terms of one phase of one row, or None when that run failed."""
    for row in figures.get("rows", ()):
        if row["series"] == series and row["fraction"] == fraction and phase in row["phases"]:
            return row["phases"][phase]
    return None

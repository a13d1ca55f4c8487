#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/charts/*.svg from the results of the benches: speed against the VRAM budget. Standard library only.

    python3 bench/gpu/charts.py [--results bench/results] [--out docs/charts]
"""
import argparse
import json
import math
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
# name of the chart: bench, phase, title, what a pass is ("rate": passes per second, else seconds), logarithmic
CHARTS = {
    "decode": ("torch", "decode", "Decode, PyTorch eager", "tokens per second", False),
    "prefill": ("torch", "prefill", "Prefill of 2048 tokens, PyTorch eager", "seconds", True),
    "graphs": ("graphs", "decode", "Decode, torch.compile with CUDA graphs", "tokens per second", False),
    "engine-decode": ("engine-decode", "decode", "Decode, C and cuBLAS in a CUDA graph", "tokens per second", False),
    "engine-prefill": ("engine-prefill", "prefill", "Prefill, C and cuBLAS in a CUDA graph", "seconds", True),
    "train": ("train", "train", "Training step, AdamW", "seconds", False),
}
SERIES = {
    "bound": ("the link's bound", "#767676"),
    "ours": ("GreenBoost", "#1a7f37"),
    "inPlace": ("read in place", "#bf5700"),
    "accelerate": ("accelerate offload", "#6639ba"),
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 70, 170, 50, 55


def points_of(rows, phase, unit):
    """{series: [(GiB of VRAM, value)]} in order of budget; the bound is that of our own rows."""
    series = {name: [] for name in SERIES}
    for row in rows:
        terms = row["phases"].get(phase)
        if terms is None:
            continue
        def value(seconds):
            return seconds if unit == "seconds" else 1 / seconds

        gib = row["budgetBytes"] / (1 << 30)
        series[row["series"]].append((gib, value(terms["measuredSeconds"])))
        if row["series"] == "ours":
            series["bound"].append((gib, value(terms["boundSeconds"])))
    return {name: sorted(points) for name, points in series.items() if points}


def ticks(low, high, logarithmic):
    if logarithmic:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return [factor * 10.0**power for power in range(first, last) for factor in (1, 2, 5)] + [10.0**last]
    step = 10 ** math.floor(math.log10(high / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if high / (step * factor) <= 6)
    return [step * i for i in range(math.ceil(high / step) + 1)]


class Plot:
    """Maps values to the picture."""

    def __init__(self, series, logarithmic):
        values = [y for points in series.values() for _, y in points]
        xs = [x for points in series.values() for x, _ in points]
        self.logarithmic = logarithmic
        self.x_low, self.x_high = math.floor(min(xs)), math.ceil(max(xs)) or 1
        marks = ticks(min(values), max(values), logarithmic)
        if logarithmic:
            low = max([mark for mark in marks if mark <= min(values)], default=marks[0])
            high = min([mark for mark in marks if mark >= max(values)], default=marks[-1])
            marks = [mark for mark in marks if low <= mark <= high]
        self.marks = marks

    def x(self, value):
        return LEFT + (value - self.x_low) / max(1, self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        scale = math.log10 if self.logarithmic else float
        low, high = scale(self.marks[0]), scale(self.marks[-1])
        return HEIGHT - BOTTOM - (scale(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def text(x, y, words, anchor="middle", colour="#1f2328", size=12, extra=""):
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} fill="{colour}" font-size="{size}"{extra}>{words}</text>'


def axes(plot, unit):
    for mark in plot.marks:
        y = plot.y(mark)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#d1d9e0"/>'
        yield text(LEFT - 8, y + 4, f"{mark:g}", "end")
    unit += " (logarithmic)" if plot.logarithmic else ""
    for gib in range(plot.x_low, plot.x_high + 1):
        yield text(plot.x(gib), HEIGHT - BOTTOM + 18, f"{gib}")
    yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "VRAM budget, GiB")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield text(18, middle, unit, extra=f' transform="rotate(-90 18 {middle:.1f})"')


def lines(plot, series):
    for index, (name, points) in enumerate(series.items()):
        label, colour = SERIES[name]
        path = " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if name == "bound" else ""
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        for x, y in points:
            where = f'cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}"'
            yield f'<circle {where} r="3.5" fill="{colour}"><title>{y:.4g}</title></circle>'
        y = TOP + 14 + index * 20
        yield f'<line x1="{WIDTH - RIGHT + 14}" y1="{y}" x2="{WIDTH - RIGHT + 34}" y2="{y}" stroke="{colour}" ' \
              f'stroke-width="2"{dash}/>'
        yield text(WIDTH - RIGHT + 40, y + 4, label, "start")


def draw(result, phase, title, unit, logarithmic):
    """The SVG, or None when the result holds no such rows."""
    series = points_of(result["figures"].get("rows", []), phase, unit)
    if not series:
        return None
    plot = Plot(series, logarithmic)
    machine = result["hardware"]
    source = f"{machine['gpu']}, driver {machine['driver']}, {result['date']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" role="img">',
        f"<!-- SPDX-License-Identifier: Apache-2.0 -->\n<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 22, title, "start", size=15, extra=' font-weight="bold"'),
        text(LEFT, 39, source, "start", "#59636e", 11),
        *axes(plot, unit), *lines(plot, series),
        "</svg>\n",
    ]
    return "\n".join(parts)


def draw_all(results: pathlib.Path, out: pathlib.Path) -> list:
    """Draws every chart whose result is there. returns: the files written."""
    written = []
    for name, (bench, *how) in CHARTS.items():
        source = results / f"bench-{bench}.json"
        picture = draw(json.loads(source.read_text()), *how) if source.exists() else None
        if picture is None:
            continue
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.svg").write_text(picture)
        written.append(out / f"{name}.svg")
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "bench" / "results")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "charts")
    arguments = parser.parse_args()
    for file in draw_all(arguments.results, arguments.out):
        print(file)

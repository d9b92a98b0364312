"""docs/performance.md, made from results.json: its words are in performance.md.jinja, its numbers are measured.

`python -m benchmarks.page` writes the page and its picture again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.peers import MOST_AT_10, MOST_AT_END
from benchmarks.saved import FULL, QUICK, ROOT, asked_quick, read
from benchmarks.step import GROUPS, OTHERS

Figures = dict[str, Any]
PICTURE = ROOT / "docs" / "pictures" / "ceiling.png"
WAYS = {
    "suite": "Stillpoint",
    "training": "Stillpoint, not measuring",
    "loop": "loop, a process per core",
    "loop_threads": "loop, a thread per core",
    "ensemble": "`torch.func`",
}
NOT_YET = "not measured yet"
NO_GPU = "not measured: no GPU on this machine"


def main() -> None:
    """Write the page of the full run, or that of the quick one beside its figures."""
    quick = asked_quick(__doc__)
    write(read(QUICK if quick else FULL), QUICK.with_suffix(".md") if quick else ROOT / "docs" / "performance.md")


def write(parts: Figures, file: Path) -> None:
    """The page, and beside it the picture."""
    picture = PICTURE if file.parent == ROOT / "docs" else file.with_suffix(".png")
    if "ceiling" in parts:
        draw(parts["ceiling"]["rows"], picture)
    file.write_text(page(parts, picture=str(picture.relative_to(file.parent))), encoding="utf-8")


def page(parts: Figures, *, picture: str) -> str:
    """The whole text, with a section for each benchmark that has run."""
    sections: dict[str, Callable[[Figures], Figures]] = {
        "peers": peers,
        "ceiling": ceiling,
        "step": step,
        "overheads": overheads,
        "growth": growth,
        "bookkeeping": bookkeeping,
        "many_lanes": many_lanes,
        "gpu": gpu,
    }
    told = {
        name: {"origin": origin(parts[name]), **section(parts[name])} if name in parts else None
        for name, section in sections.items()
    }
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    template = environment.get_template("performance.md.jinja")
    return template.render(**told, goals=goals(parts), picture=picture, no_gpu=NO_GPU).rstrip() + "\n"


def goals(parts: Figures) -> str:
    """What was to be reached, and what was measured."""
    return table(["what", "asked", "measured"], [[what, asked, _told(parts, told)] for what, asked, told in GOALS])


def _told(parts: Figures, told: Callable[[Figures], str]) -> str:
    try:
        return told(parts)
    except (KeyError, ValueError):  # not in this file, or not at these widths
        return NOT_YET


def _against(name: str, peer: str, ours: str) -> Callable[[Figures], str]:
    return lambda parts: f"{parts['peers'][name][peer] / parts['peers'][name][ours]:.2f}x"


def _against_loop(parts: Figures) -> str:
    def least(way: str) -> str:
        rows = parts["ceiling"]["rows"]
        ratio, width = min((row[way] / max(row["loop"], row["loop_threads"]), row["width"]) for row in rows)
        return f"{ratio:.2f}x, at width {width}"

    return f"{least('training')}; with default measurements {least('suite')}"


def _fraction(parts: Figures, least: int, most: int) -> str:
    rows = [row for row in parts["ceiling"]["rows"] if least <= row["width"] <= most]
    fraction, width = min((row["suite"] / row["ceiling"], row["width"]) for row in rows)
    return f"{fraction:.2f}, at width {width}"


def _gpu_speed(parts: Figures) -> str:
    if parts["gpu"]["device"] is None:
        return NO_GPU
    narrow = parts["gpu"]["narrow"]
    whole, training = (narrow["one_at_a_time"] / narrow[name] for name in ("suite", "suite_training"))
    return f"{whole:.1f}x, training alone {training:.1f}x ({parts['gpu']['device']})"


def _gpu_fraction(parts: Figures) -> str:
    if parts["gpu"]["device"] is None:
        return NO_GPU
    return f"{min(r['suite'] / r['ceiling'] for r in parts['gpu']['ceiling']):.2f} ({parts['gpu']['device']})"


def _bookkeeping(parts: Figures) -> str:
    return " / ".join(f"{parts['bookkeeping'][name]:.1f} s" for name in ("plan", "rerun", "report"))


def _above_a_task(parts: Figures) -> str:
    lane, task = lane_and_task(parts["many_lanes"])
    return f"{1000 * (lane - task):.1f} ms"


def lane_and_task(figures: Figures) -> tuple[float, float]:
    """Seconds of a lane through the scheduler and of an empty Ray task, medians of the rounds."""
    lane, task = (statistics.median(figures[name]) / figures["lanes"] for name in ("lane_seconds", "task_seconds"))
    return lane, task


GOALS: list[tuple[str, str, Callable[[Figures], str]]] = [
    (
        "narrow sweep: wall per trial, from the command to the last row in Parquet and MLflow, against Ray Tune",
        "30x",
        _against("narrow", "tune", "suite"),
    ),
    ("wide sweep: the same", "3x", _against("wide", "tune", "suite")),
    (
        "narrow sweep: training alone, against a sequential loop on the same cores",
        "2.5x",
        _against("narrow", "loop", "suite_training"),
    ),
    (
        "wide sweep: training alone, against a sequential loop; 300 steps have dense records, which the loop has not",
        "",
        _against("wide", "loop", "suite_training"),
    ),
    ("steps of any width from 16 to 2048, against a sequential loop", "never below 0.97x", _against_loop),
    (
        "fraction of the GEMM ceiling at width 512, default measurements on",
        "0.75",
        lambda parts: _fraction(parts, 512, 1023),
    ),
    ("the same from width 1024 on", "0.85", lambda parts: _fraction(parts, 1024, 2048)),
    (
        "narrow sweep: tracking's share of wall",
        "at most 10%",
        lambda parts: f"{parts['overheads']['shares']['tracking']:.1%}",
    ),
    (
        "narrow sweep: share of wall in which cores idle while the last lanes end",
        "at most 10%",
        lambda parts: f"{parts['overheads']['tail']:.1%}",
    ),
    (
        "command to first training step, calibration included",
        "at most 8 s",
        lambda parts: f"{parts['overheads']['start_up_cold']:.1f} s",
    ),
    (
        "10,000 trials of calibrated shapes: plan / run with nothing to do / analyse 60 records of each",
        "3 s / 15 s / 30 s",
        _bookkeeping,
    ),
    (
        "2,000 trivial lanes through the scheduler over 20 nodes: wall per lane above an empty Ray task",
        "at most 5 ms",
        _above_a_task,
    ),
    (
        "the same: the driver's memory from lane 1,000 to 2,000",
        "less than 20 MB",
        lambda parts: f"{max(parts['many_lanes']['grown']) / 1e6:.1f} MB",
    ),
    ("one H200: narrow sweep, against its trials one at a time on that GPU", "100x", _gpu_speed),
    ("one H200: fraction of the float32 GEMM rate, width 2048 and more", "0.70", _gpu_fraction),
]


def peers(figures: Figures) -> Figures:
    """Times and differences of losses."""
    sweeps = {name: figures[name] for name in ("narrow", "wide")}
    ways = {
        "suite": "Stillpoint, from the command to its last row",
        "suite_plain": "the same, `measure: none`",
        "tune": "Ray Tune",
        "suite_training": "Stillpoint, training alone",
        "suite_plain_training": "the same, `measure: none`",
        "loop": "sequential loop, training alone",
        "ensemble": "`torch.func` ensemble, training alone",
    }
    names = {"tune": "Ray Tune", "loop": "sequential loop", "ensemble": "`torch.func` ensemble"}
    columns = {"loss_10_most": "step 10, largest", "loss_median": "end, median", "loss_most": "end, largest"}
    differences = [
        [f"{words}, {name}", *(f"{sweep['differences'][peer][column]:.1e}" for column in columns)]
        for name, sweep in sweeps.items()
        for peer, words in names.items()
    ]
    return {
        "sizes": "; ".join(
            f"{n}: {s['trials']} trials of {s['steps']} steps, {s['sampled']} of them by the peers"
            for n, s in sweeps.items()
        ),
        "times": table(
            ["", *sweeps], ([words, *(_milliseconds(s[way]) for s in sweeps.values())] for way, words in ways.items())
        ),
        "differences": table(["", *columns.values()], differences),
        "most_at_10": f"{MOST_AT_10:.0e}",
        "most_at_end": f"{MOST_AT_END:.0%}",
    }


def ceiling(figures: Figures) -> Figures:
    """Fractions by width."""
    rows = [
        [
            row["width"],
            row["slots"],
            f"{row['ceiling'] / 1e9:.0f}",
            *(f"{row[way] / row['ceiling']:.2f}" for way in WAYS),
        ]
        for row in figures["rows"]
    ]
    head = ["width", "slots", "ceiling, GFLOP/s", *WAYS.values()]
    names = sorted({name for row in figures["rows"] for name in row["parts"]})
    parts = [[name, *(f"{row['parts'].get(name, 0):.1%}" for row in figures["rows"])] for name in names]
    widths = [str(row["width"]) for row in figures["rows"]]
    return {"rates": table(head, rows), "rounds": figures["rounds"], "parts": table(["width", *widths], parts)}


def step(figures: Figures) -> Figures:
    """Shares of a step by width."""
    rows = figures["rows"]
    widths = sorted(rows, key=int)
    shares = [[group, *(f"{rows[width][group]:.0%}" for width in widths)] for group in (*GROUPS, OTHERS)]
    return {"shares": table(["width", *widths], shares)}


def overheads(figures: Figures) -> Figures:
    """Shares of wall, and of core time."""
    compared = {
        "tracking": "MLflow (`--tracking-uri none`)",
        "measurement": "default measurements (`measure=none`)",
        "checkpoints": "checkpoints (`checkpoints=none`)",
    }
    within = {
        "start_up_share": "start-up, to the end of the first step",
        "tail": "tail: cores idle while the last lanes end",
        "ending": "from the last step to the end of the command",
    }
    shares = [[words, f"{figures['shares'][n]:.1%}", _walls(figures["walls"][n])] for n, words in compared.items()]
    shares += [[words, f"{figures[name]:.1%}", ""] for name, words in within.items()]
    parts = sorted(figures["measurements"].items(), key=lambda item: -item[1])
    return {
        "walls": _walls(figures["walls"]["everything"]),
        "shares": table(["part", "share of wall", "walls without"], shares),
        "cold": f"{figures['start_up_cold']:.1f} s",
        "warm": f"{figures['start_up_warm']:.1f} s",
        "core_seconds": f"{figures['core_seconds']:.0f}",
        "measurements": table(
            ["measurement", "share of core time"],
            [[name, f"{share:.2%}"] for name, share in [*parts, ("all", sum(figures["measurements"].values()))]],
        ),
    }


def growth(figures: Figures) -> Figures:
    """Exponents, and the seconds they are fitted to."""
    names = {
        "trials": "trials, wall of the command",
        "encoder.width": "width, seconds per trial",
        "encoder.depth": "depth, seconds per trial",
        "data.samples": "samples n, seconds per trial",
    }
    rows = [[words, f"{figures[name]['exponent']:.2f}", _series(figures[name])] for name, words in names.items()]
    return {"exponents": table(["what grows", "exponent", "size: seconds"], rows)}


def bookkeeping(figures: Figures) -> Figures:
    """Seconds of each command."""
    names = {
        "plan_cold": "`plan`, nothing calibrated",
        "plan": "`plan`",
        "rerun": "`run` with nothing to do",
        "report": "`report`",
        "status": "`status`",
    }
    rows = [[words, f"{figures[n]:.1f} s", f"{figures[f'{n}_cpu']:.1f} s"] for n, words in names.items()]
    return {"seconds": table(["command", "wall", "processor"], rows)}


def many_lanes(figures: Figures) -> Figures:
    """Milliseconds of a lane and of a task in each round, and megabytes."""
    rows = [
        [
            number,
            *(
                f"{1000 * figures[name][number - 1] / figures['lanes']:.1f}"
                for name in ("task_seconds", "lane_seconds")
            ),
            f"{figures['grown'][number - 1] / 1e6:.1f}",
        ]
        for number in range(1, 1 + len(figures["grown"]))
    ]
    head = ["round", "empty Ray task, ms", "lane, ms", "driver's memory in the second half, MB"]
    return {"rounds": table(head, rows), "lanes": f"{figures['lanes']:,}", "nodes": figures["nodes"]}


def gpu(figures: Figures) -> Figures:
    """What was measured on a GPU, if there was one."""
    if figures["device"] is None:
        return {"narrow": None}
    ways = {
        "suite": "Stillpoint, from the command to its end",
        "suite_training": "Stillpoint, training alone",
        "one_at_a_time": "one at a time, training alone",
    }
    fractions = [
        [row["width"], f"{row['ceiling'] / 1e12:.1f}", f"{row['suite'] / row['ceiling']:.2f}"]
        for row in figures["ceiling"]
    ]
    return {
        "device": figures["device"],
        "narrow": table(["", "narrow"], ([words, _milliseconds(figures["narrow"][n])] for n, words in ways.items())),
        "fractions": table(["width", "GEMM, TFLOP/s", "fraction"], fractions),
    }


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def draw(rows: list[Figures], file: Path) -> None:
    """Fraction of the ceiling against width, for each way."""
    import pandas as pd
    import seaborn as sns
    from matplotlib.figure import Figure

    points = [
        {"width": row["width"], "fraction of the ceiling": row[way] / row["ceiling"], "way": words.replace("`", "")}
        for row in rows
        for way, words in WAYS.items()
    ]
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        style = {"markers": True, "dashes": False, "palette": "colorblind", "ax": axes}
        sns.lineplot(
            pd.DataFrame(points), x="width", y="fraction of the ceiling", hue="way", style="way", errorbar=None, **style
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["width"] for row in rows], [str(row["width"]) for row in rows])
    axes.set_ylim(0, 1)
    axes.legend(title=None)
    figure.savefig(file, dpi=120, bbox_inches="tight")


def origin(figures: Figures) -> str:
    """What a benchmark ran on, with what, and when."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    machine = f"{figures['cores']} cores of {figures['processor']}"
    return f"{machine} ({versions}; {figures['date'][:10]}, code {figures['code']})"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.2g}"


def _walls(seconds: list[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in seconds) + " s"


def _series(growing: Figures) -> str:
    return ", ".join(f"{size}: {took:.3g}" for size, took in zip(growing["sizes"], growing["seconds"], strict=True))


if __name__ == "__main__":
    main()

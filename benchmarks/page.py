"""docs/performance.md, made from results.json: its words are here, its numbers are measured.

`python -m benchmarks.page` writes the page and its picture again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.saved import FULL, QUICK, ROOT, asked_quick, read

Figures = dict[str, Any]
PICTURE = ROOT / "docs" / "pictures" / "ceiling.png"
WAYS = {
    "suite": "Stillpoint",
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
    """The page, and beside it the picture; what was not measured is said to be so."""
    picture = PICTURE if file.parent == ROOT / "docs" else file.with_suffix(".png")
    if "ceiling" in parts:
        draw(parts["ceiling"]["rows"], picture)
    file.write_text(page(parts, str(picture.relative_to(file.parent))))


def page(parts: Figures, picture: str) -> str:
    """The whole text."""
    sections: dict[str, Callable[[Figures], str]] = {
        "peers": peers,
        "ceiling": lambda figures: ceiling(figures, picture),
        "overheads": overheads,
        "growth": growth,
        "bookkeeping": bookkeeping,
        "gpu": gpu,
    }
    told = [section(parts[name]) for name, section in sections.items() if name in parts]
    return "\n\n".join([HEAD, goals(parts), *told]) + "\n"


HEAD = """# How fast it is, and what it costs

Made by `make bench` from `benchmarks/results.json`; no number is typed by hand. Each section names its own command, and
says on what it was measured. Ratios compare what ran in one and the same benchmark on one machine."""


def goals(parts: Figures) -> str:
    """What was to be reached, and what was measured."""
    rows = [[what, asked, told(parts)] for what, asked, told in GOALS]
    return table(["what", "asked", "measured"], rows)


def _told(measured: Callable[[Figures], str], missing: str = NOT_YET) -> Callable[[Figures], str]:
    """The words for a figure, where its benchmark has run."""

    def words(parts: Figures) -> str:
        try:
            return measured(parts)
        except (KeyError, ValueError):
            return missing

    return words


def _against(name: str, peer: str, ours: str) -> Callable[[Figures], str]:
    return _told(lambda p: f"{p['peers'][name][peer] / p['peers'][name][ours]:.1f}x")


def _least_against_loop(parts: Figures) -> str:
    ratios = {r["width"]: r["suite"] / max(r["loop"], r["loop_threads"]) for r in parts["ceiling"]["rows"]}
    width = min(ratios, key=lambda w: ratios[w])
    return f"{ratios[width]:.2f}x, at width {width}"


def _least_fraction(parts: Figures, least: int, most: int) -> str:
    fractions = {r["width"]: r["suite"] / r["ceiling"] for r in parts["ceiling"]["rows"] if least <= r["width"] <= most}
    width = min(fractions, key=lambda w: fractions[w])
    return f"{fractions[width]:.2f}, at width {width}"


def _gpu_speed(parts: Figures) -> str:
    narrow = parts["gpu"]["narrow"]
    whole, training = (narrow["one_at_a_time"] / narrow[name] for name in ("suite", "suite_training"))
    return f"{whole:.1f}x; training alone {training:.0f}x"


def _gpu_fraction(parts: Figures) -> str:
    return f"{min(r['suite'] / r['ceiling'] for r in parts['gpu']['ceiling']):.2f}"


def _bookkeeping(parts: Figures) -> str:
    return " / ".join(f"{parts['bookkeeping'][name]:.1f} s" for name in ("plan", "rerun", "report"))


GOALS: list[tuple[str, str, Callable[[Figures], str]]] = [
    (
        "narrow sweep, wall per trial from the command to the last row in Parquet and MLflow, against Ray Tune's",
        "30x",
        _against("narrow", "tune", "suite"),
    ),
    ("wide sweep, the same", "3x", _against("wide", "tune", "suite")),
    (
        "narrow sweep, training alone against a sequential loop on the same cores",
        "2.5x",
        _against("narrow", "loop", "suite_training"),
    ),
    ("any width from 16 to 2048 against the sequential loop", "never below 0.97x", _told(_least_against_loop)),
    (
        "fraction of the GEMM ceiling, width 512, default measurements on",
        "0.75",
        _told(lambda p: _least_fraction(p, 512, 1023)),
    ),
    ("the same from width 1024", "0.85", _told(lambda p: _least_fraction(p, 1024, 10**9))),
    (
        "tracking's share of wall, narrow sweep",
        "at most 10%",
        _told(lambda p: f"{p['overheads']['shares']['tracking']:.1%}"),
    ),
    (
        "tail: cores idle while the last lanes end, of the narrow sweep's wall",
        "at most 10%",
        _told(lambda p: f"{p['overheads']['tail']:.1%}"),
    ),
    (
        "command to first training step, calibration included",
        "at most 8 s",
        _told(lambda p: f"{p['overheads']['start_up_cold']:.1f} s"),
    ),
    (
        "10,000 trials: plan / run with nothing to do / analyse 60 records of each",
        "3 s / 15 s / 30 s",
        _told(_bookkeeping),
    ),
    ("one H200: narrow sweep against its trials one at a time on that GPU", "100x", _told(_gpu_speed, NO_GPU)),
    ("one H200: fraction of the float32 GEMM rate, width 2048 and more", "0.70", _told(_gpu_fraction, NO_GPU)),
]


def peers(figures: Figures) -> str:
    """Section (a)."""
    sweeps = {name: figures[name] for name in ("narrow", "wide")}
    ways = {
        "suite": "Stillpoint, from the command to its end",
        "tune": "Ray Tune",
        "suite_training": "Stillpoint, training alone",
        "loop": "sequential loop, training alone",
        "ensemble": "`torch.func` ensemble, training alone",
    }
    rows = [[words, *(_milliseconds(sweep[way]) for sweep in sweeps.values())] for way, words in ways.items()]
    names = {"tune": "Ray Tune", "loop": "sequential loop", "ensemble": "`torch.func` ensemble"}
    columns = ("loss_10_most", "loss_median", "loss_most")
    apart = [
        [f"{words}, {name}", *(f"{sweep['differences'][peer][column]:.1e}" for column in columns)]
        for name, sweep in sweeps.items()
        for peer, words in names.items()
    ]
    sizes = [f"{n}: {s['trials']} trials of {s['steps']} steps, {s['sampled']} by the peers" for n, s in sweeps.items()]
    return f"""## Beside its peers

`python -m benchmarks.peers`, on {_origin(figures)}. Milliseconds per trial on all cores ({"; ".join(sizes)}):

{table(["", *sweeps], rows)}

The command runs with nothing calibrated, and without the report. Ray Tune trains one trial a process, as its guides show it, with
`torch.optim.SGD` and `MLflowLoggerCallback` on SQLite; its time is from its first trial's start to its last one's last report, so without Ray's
own start. Each of its trials reports at steps 0 and 10 and after every tenth of its steps; reports more often would make it slower. The loop is
`nn.Module`, autograd and `torch.optim.SGD` with G at every step and no tracking; the ensemble is `vmap` over `grad_and_value` of the stacked
seeds of one shape. Both take, shape by shape, the faster of one process of one thread per core and one process of as many threads. All start
from the suite's own draws, and the outputs of the first, untrained layer are given to them.

They reach the same losses. Relative differences to Stillpoint's, of the trials that both trained:

{table(["", "step 10, largest", "end, median", "end, largest"], apart)}

The benchmark fails where step 10 differs by more than 1e-4 in any trial, or the end by more than 1% in the median trial."""


def ceiling(figures: Figures, picture: str) -> str:
    """Section (b)."""
    rows = [
        [
            row["width"],
            row["slots"],
            f"{row['ceiling'] / 1e9:.0f}",
            *(f"{row[way] / row['ceiling']:.2f}" for way in WAYS),
            f"{row['measuring']:.1%}",
        ]
        for row in figures["rows"]
    ]
    return f"""## Of the hardware's ceiling

`python -m benchmarks.ceiling`, on {_origin(figures)}. Fractions of the rate at which this machine makes a step's matrix products and
nothing else (float32, the same shapes, as many different matrices), by width, at depth 2, n = 64 and d = 16:

![Fraction of the ceiling against width]({picture})

{table(["width", "slots", "ceiling, GFLOP/s", *WAYS.values(), "measuring"], rows)}

All run in one process of one thread per core, all cores at once, but for the loop with a thread per core; measured in turns, the best of
{figures["rounds"]} rounds. Stillpoint's times include the default measurements of a trial of 1000 steps (their share is in the last column):
of trials that take long, the first steps are trained, and each part is counted as often as in a whole one. Below width 256 a step is mostly
what is around the products, which is why stacking trials pays there."""


def overheads(figures: Figures) -> str:
    """Section (c)."""
    words = {
        "tracking": "MLflow (`--tracking-uri none`)",
        "measurement": "default measurements (`measure=none`)",
        "checkpoints": "checkpoints (`checkpoints=none`)",
    }
    rows = [[words[name], f"{figures['shares'][name]:.1%}", _walls(figures["walls"][name])] for name in words]
    rows += [
        ["start-up, to the end of the first step", f"{figures['start_up_share']:.1%}", ""],
        ["tail: cores idle while the last lanes end", f"{figures['tail']:.1%}", ""],
        ["from the last step to the end of the command", f"{figures['ending']:.1%}", ""],
    ]
    parts = sorted(figures["measurements"].items(), key=lambda item: -item[1])
    cold, warm = figures["start_up_cold"], figures["start_up_warm"]
    return f"""## Around training

`python -m benchmarks.overheads`, on {_origin(figures)}. Shares of the narrow sweep's wall, report left out and shapes calibrated; with all of
them it takes {_walls(figures["walls"]["everything"])}. Of the first three, the sweep was run with and without in turns, and the least walls are
compared; differences of a few percent are noise.

{table(["part", "share", "walls without"], rows)}

From the command to the end of the first training step: {cold:.1f} s with nothing calibrated, {warm:.1f} s with all shapes known (medians).

The lanes of the sweep, trained one after another in one process ({figures["core_seconds"]:.0f} core seconds, half of the seeds):

{table(["measurement", "share of core time"], [[name, f"{share:.2%}"] for name, share in parts])}

`make bench-measurement` does the same for the quickstart. Curvature, kernels and gradient dominance are off by default;
`stillpoint plan` says what they would take."""


def growth(figures: Figures) -> str:
    """Section (d)."""
    names = {
        "trials": "trials, wall of the command",
        "encoder.width": "width, seconds per trial",
        "encoder.depth": "depth, seconds per trial",
        "data.samples": "samples n, seconds per trial",
    }
    rows = [
        [words, "—" if (slope := figures[name]["exponent"]) is None else f"{slope:.2f}", _series(figures[name])]
        for name, words in names.items()
    ]
    return f"""## How it grows

`python -m benchmarks.growth`, on {_origin(figures)}. The exponent is fitted to the larger half of the sizes. A step's products grow like
width squared, depth and n, so the exponents of an ideal machine are 2, 1 and 1, and that of the number of trials is 1. Trials of width 32,
depth 1 and 100 steps by the command; the others trained as full lanes on one core, scaled to 1000 steps, at width 256, depth 2 and n = 64
where these do not grow.

{table(["what grows", "exponent", "size: seconds"], rows)}"""


def bookkeeping(figures: Figures) -> str:
    """Section (e)."""
    names = {
        "plan_cold": "`plan`, nothing calibrated",
        "plan": "`plan`",
        "rerun": "`run` with nothing to do",
        "report": "`report`",
        "status": "`status`",
    }
    rows = [
        [words, f"{figures[n]:.1f} s", f"{figures[f'{n}_cpu']:.1f} s"] for n, words in names.items() if n in figures
    ]
    return f"""## Ten thousand trials

`python -m benchmarks.bookkeeping`, on {_origin(figures)}. A finished sweep of 10,000 trials with 60 records each, made of one trained trial and
variations on it by the code that writes results. Each command in a process of its own, imports included:

{table(["command", "wall", "processor"], rows)}"""


def gpu(figures: Figures) -> str:
    """The GPU's section."""
    head = f"## On a GPU\n\n`python -m benchmarks.gpu`, on {_origin(figures)}. "
    if figures["device"] is None:
        return head + NO_GPU[0].upper() + NO_GPU[1:] + "."
    narrow = figures["narrow"]
    rows = [[r["width"], f"{r['ceiling'] / 1e12:.1f}", f"{r['suite'] / r['ceiling']:.2f}"] for r in figures["ceiling"]]
    return f"""{head}{figures["device"]}. The narrow sweep takes {_milliseconds(narrow["suite"])} ms per trial from the command to its end,
{_milliseconds(narrow["suite_training"])} ms of training alone, and {_milliseconds(narrow["one_at_a_time"])} ms when its trials are trained one at a time.

{table(["width = n", "float32 GEMM, TFLOP/s", "fraction"], rows)}"""


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def draw(rows: list[Figures], file: Path) -> None:
    """Fraction of the ceiling against width, for each way."""
    import matplotlib
    import pandas as pd
    import seaborn as sns

    matplotlib.use("Agg")
    points = [
        {"width": row["width"], "fraction of the ceiling": row[way] / row["ceiling"], "": words.replace("`", "")}
        for row in rows
        for way, words in WAYS.items()
    ]
    sns.set_theme(style="whitegrid", palette="colorblind")
    frame = pd.DataFrame(points)
    axes = sns.lineplot(frame, x="width", y="fraction of the ceiling", hue="", style="", markers=True, dashes=False)
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["width"] for row in rows], [str(row["width"]) for row in rows])
    axes.set_ylim(0, 1)
    axes.figure.set_size_inches(7, 4)
    axes.figure.savefig(file, dpi=120, bbox_inches="tight")
    matplotlib.pyplot.close(axes.figure)


def _origin(figures: Figures) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    return f"{figures['cores']} cores of {figures['processor']} ({versions}; {figures['date'][:10]}, code {figures['code']})"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.2g}"


def _walls(seconds: list[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in seconds) + " s"


def _series(growing: Figures) -> str:
    return ", ".join(f"{size}: {took:.3g}" for size, took in zip(growing["sizes"], growing["seconds"], strict=True))


if __name__ == "__main__":
    main()

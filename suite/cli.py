"""The command `stillpoint`: commands and no logic. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from suite.redaction import redacted

if TYPE_CHECKING:
    from analysis.report import Report

app = typer.Typer(
    name="stillpoint",
    help="Do two encoders trained jointly on a contrastive loss reach a stationary point, and how does that scale?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SOME_FAILED, BAD_INPUT, LOCKED, INTERRUPTED = 1, 2, 3, 130
OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Python collects garbage after every 700 new objects; nearly all that is made while libraries load stays."""


File = Annotated[Path, typer.Argument(help="Experiment YAML.", show_default=False)]
Folder = Annotated[
    str, typer.Argument(help="Results: a folder such as results/quickstart, or s3://...", show_default=False)
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; repeatable.")]
Profile = Annotated[str | None, typer.Option(help="Apply the overrides of this name in the file.")]
ResultsDir = Annotated[str, typer.Option("--results", help="Where results folders are made; or s3://BUCKET/...")]
Address = Annotated[str | None, typer.Option(help="Ray cluster, such as auto or 10.0.0.1:6379; local when left out.")]

TrackingUri = Annotated[str | None, typer.Option(help="MLflow; where the last run wrote when left out.")]


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        print(f"stillpoint {version('stillpoint')}")
        raise typer.Exit


@app.command()
def run(
    file: File,
    overrides: Set = None,
    profile: Profile = None,
    results: ResultsDir = "results",
    address: Address = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow; RESULTS/mlflow.db when left out, none to leave MLflow out.")
    ] = None,
    with_report: Annotated[bool, typer.Option("--report/--no-report", help="Fit laws and write the report.")] = True,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Start Ray's dashboard and say where it is.")] = False,
    trial: Annotated[str | None, typer.Option(metavar="ID", help="With --fresh: this trial only.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again and compare with what is stored.")] = False,
) -> None:
    """Train what is missing, analyse, report."""
    from suite.loading import load_experiment
    from suite.progress import TerminalObserver
    from suite.run import describe
    from suite.run import run as run_experiment

    console = Console(soft_wrap=False)
    began = time.monotonic()
    experiment = load_experiment(file, overrides=overrides or [], profile=profile)
    if fresh or trial is not None:
        _replay(experiment, results, trial, fresh)
        return
    observer = TerminalObserver(console)
    summary = run_experiment(
        experiment,
        results=results,
        address=address,
        tracking_uri=tracking_uri,
        observer=observer,
        command=_command(),
        report=with_report,
        dashboard=dashboard,
    )
    console.print(describe(summary, time.monotonic() - began), highlight=False)
    if summary.interrupted:
        console.print("Interrupted: what was done is kept. The same command goes on from here.")
        raise typer.Exit(INTERRUPTED)
    if summary.report is not None:
        _closing_table(summary.report, console)
    else:
        console.print(f"no report: stillpoint report {_short(summary.folder)} writes it", highlight=False, markup=False)
    where = f"stillpoint ui {_short(summary.folder)}" if tracking_uri is None else summary.tracking_uri
    console.print(f"MLflow  {where}", highlight=False, markup=False)
    if not summary.complete:
        raise typer.Exit(SOME_FAILED)


@app.command()
def plan(
    file: File,
    overrides: Set = None,
    profile: Profile = None,
    results: ResultsDir = "results",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print trials, lanes, parameters, FLOPs, memory and expected time, without training."""
    from suite.loading import load_experiment
    from suite.planning import make_plan, show_plan

    made = make_plan(load_experiment(file, overrides=overrides or [], profile=profile), results=results)
    if as_json:
        print(json.dumps(made.to_dict(), indent=2))
    else:
        show_plan(made, Console())


@app.command()
def status(folder: Folder) -> None:
    """Print how many trials are done, and whether a run is at work."""
    from suite.inspection import show_status

    show_status(folder, Console())


@app.command()
def sync(folder: Folder, tracking_uri: TrackingUri = None) -> None:
    """Deliver to MLflow what the results have and it has not; nothing comes twice."""
    from suite.progress import TerminalObserver
    from suite.sync import sync as deliver

    console = Console()
    synced = deliver(folder, tracking_uri=tracking_uri, observer=TerminalObserver(console))
    console.print(synced.words, highlight=False, markup=False)
    if synced.problem:
        raise typer.Exit(SOME_FAILED)


@app.command()
def doctor(
    address: Address = None,
    results: ResultsDir = "results",
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow; RESULTS/mlflow.db when left out.")] = None,
) -> None:
    """Print what every node has, and what is wrong with it: versions, GPUs, memory, clock, storage, MLflow."""
    from suite.doctor import examine, show

    found = examine(address=address, results=results, tracking_uri=tracking_uri)
    show(found, Console())
    if found.problems:
        raise typer.Exit(SOME_FAILED)


@app.command()
def report(folder: Folder) -> None:
    """Fit the laws and write the report again."""
    from suite.run import write_report
    from suite.storage import storage_at

    console = Console()
    _closing_table(write_report(storage_at(folder)), console)


@app.command()
def compare(
    first: Folder,
    second: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Two sweeps side by side: what was set differently, and which differences of the outcomes are more than chance."""
    from analysis.comparison import compare as compare_results
    from analysis.comparison_summary import print_comparison
    from analysis.frames import load_results

    compared = compare_results(load_results(first), load_results(second))
    if as_json:
        print(json.dumps(compared.to_dict(), indent=2, allow_nan=False))
    else:
        print_comparison(compared, Console())


@app.command()
def fit(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet file.", show_default=False)],
    y: Annotated[str, typer.Option(help="Column that is explained.", show_default=False)],
    x: Annotated[list[str], typer.Option(help="Column that explains it; repeatable.", show_default=False)],
    law: Annotated[
        list[str],
        typer.Option(
            help="power, offset-power, multiplicative, additive or broken-power; several are compared.",
            show_default=False,
        ),
    ],
    group: Annotated[str | None, typer.Option(help="Fit once for each value of this column.")] = None,
    censored: Annotated[str | None, typer.Option(help="Column that is true where y is only a lower bound.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Rows that share a draw; seed when left out.")] = None,
    times: Annotated[str, typer.Option(help="Spread of censored y: log-normal or weibull.")] = "log-normal",
    bootstrap: Annotated[int, typer.Option(help="Tables to draw for percentile intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit scaling laws to any table: parameters, intervals, status, extrapolation error, and which law it prefers."""
    from analysis.table_fit import fit_table, to_json

    fits = fit_table(
        table,
        y=y,
        x=x,
        laws=law,
        group=group,
        censored=censored,
        cluster=cluster,
        times=times,  # type: ignore[arg-type]
        bootstrap=bootstrap,
    )
    print(to_json(fits) if as_json else "\n\n".join(each.text() for each in fits))
    if any(each.fit is None for each in fits):
        raise typer.Exit(SOME_FAILED)


@app.command()
def study(
    experiments: Annotated[Path, typer.Argument(help="Folder of experiments.")] = Path("experiments"),
    profile: Annotated[str, typer.Option(help="Of the experiments; those that have it are run.")] = "study",
    results: ResultsDir = "results/study",
    page: Annotated[Path, typer.Option(help="Where the page goes; its figures go into a folder beside it.")] = Path(
        "docs/study.md"
    ),
    address: Address = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run the sweeps that the theory is judged on, and write the ledger with its verdicts."""
    from suite.progress import TerminalObserver
    from suite.study import run_study

    console = Console()
    done = run_study(
        experiments,
        page=page,
        results=results,
        profile=profile,
        address=address,
        tracking_uri=tracking_uri,
        observer=TerminalObserver(console),
        announce=lambda words: console.print(words, highlight=False, markup=False),
    )
    if done.incomplete:
        console.print(f"not complete: {', '.join(done.incomplete)}; the same command goes on from here")
        raise typer.Exit(SOME_FAILED)
    console.print(f"{done.num_sweeps} sweeps judged: {page}", highlight=False, markup=False)


@app.command()
def ui(
    folder: Folder,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 5000 when left out, or another one that is free.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page where there is a screen.")
    ] = True,
) -> None:
    """Open MLflow at the sweep of these results; Ctrl-C ends it."""
    from suite.ui import serve

    raise typer.Exit(serve(folder, host=host, port=port, browser=browser))


@app.command()
def init(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write; printed when left out.", show_default=False)
    ] = None,
) -> None:
    """Print a commented experiment to start from."""
    text = Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8")
    if file is None:
        print(text, end="")
        return
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise ValueError(f"{file} exists already; choose another name, or remove it") from None
    print(f"{file} written; next: stillpoint plan {file}")


@app.command()
def schema() -> None:
    """Print the JSON schema of experiments, for editors."""
    from suite.reference import json_schema

    print(json.dumps(json_schema(), indent=1))


def _replay(experiment: object, results: str, trial: str | None, fresh: bool) -> None:
    from suite.experiment import Experiment
    from suite.replay import replay

    if trial is None or not fresh:
        raise ValueError("--trial ID and --fresh go together: they train one stored trial again and compare")
    assert isinstance(experiment, Experiment)
    difference = replay(experiment, trial, results=results)
    print(difference.words)
    if not difference.same_records:
        raise typer.Exit(SOME_FAILED)


def _closing_table(report: Report, console: Console) -> None:
    from analysis.summary import print_summary

    print_summary(report, console)


def _command() -> str:
    """As the user typed it, without its secrets."""
    return shlex.join(redacted(word) for word in ("stillpoint", *sys.argv[1:]))


def _short(place: Path | str) -> str:
    return str(place).removeprefix(f"{Path.cwd()}/")


def main() -> None:
    """Run a command; bad input ends with one message and exit code 2."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    try:
        sys.exit(app(standalone_mode=False))
    except Exception as error:
        code = _fail(error)
        if type(error).__name__ == "LostClusterError":  # Ray's own farewell may wait for that cluster
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)


def _fail(error: Exception) -> int:
    """Say what went wrong; the exit code tells which kind it was. A defect of Stillpoint keeps its traceback."""
    from suite.failures import UnfinishedError

    if hasattr(error, "show") and hasattr(error, "message"):  # of the command line itself, and quotes it
        error.message = redacted(error.message)
        error.show()
        return BAD_INPUT
    words = redacted(f"stillpoint: {error}")
    if isinstance(error, UnfinishedError):
        print(words, file=sys.stderr)
        print("What was done is kept. The same command goes on from here.", file=sys.stderr)
        return SOME_FAILED
    kind = type(error).__name__
    if kind not in ("LockedError", "ClusterError") and not isinstance(error, ValueError | OSError):
        print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        return SOME_FAILED
    print(words, file=sys.stderr)
    return LOCKED if kind == "LockedError" else BAD_INPUT

"""`stillpoint fit` on tables of one's own: what it prints, and what it says of tables that it cannot use."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Terminal


def table() -> pd.DataFrame:
    """T = 40 m^-0.5 L with 10% of noise, 5 seeds, and two groups of which one is twice the other."""
    index = pd.MultiIndex.from_product(
        [range(5), (32, 64, 128, 256), (1, 2, 4), ["a", "b"]], names=["seed", "m", "L", "kind"]
    )
    frame = index.to_frame(index=False)
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=len(frame)))
    frame["T"] = 40 * frame.m**-0.5 * frame.L * noise * np.where(frame.kind == "b", 2.0, 1.0)
    return frame.assign(late=frame["T"] > 30, T=frame["T"].clip(upper=30))


@pytest.fixture
def mine(terminal: Terminal) -> Terminal:
    table().to_csv(terminal.folder / "mine.csv", index=False)
    table().to_parquet(terminal.folder / "mine.parquet")
    return terminal


def test_a_law_is_fitted_to_a_csv_and_to_the_same_rows_in_parquet(mine: Terminal):
    words = ("--y", "T", "--x", "m", "--x", "L", "--law", "multiplicative", "--censored", "late", "--group", "kind")
    text = mine("fit", "mine.csv", *words)
    assert "kind = a: T = A prod_i x_i^-a_i, x: m, L (60 rows, 5 clusters" in text
    assert "log-normal accelerated failure time; jackknife over seed" in text
    assert "status: converged" in text
    found = json.loads(mine("fit", "mine.parquet", *words, "--json"))
    assert [each["group"] for each in found] == ["kind = a", "kind = b"]
    for each, amplitude in zip(found, (40, 80), strict=True):
        parameters = each["fit"]["parameters"]
        for name, truth in (("a_m", 0.5), ("a_L", -1.0), ("A", amplitude)):
            one = parameters[name]
            assert abs(one["value"] - truth) < one["high"] - one["low"]  # of six 95% intervals one may miss
    weibull = mine("fit", "mine.csv", *words, "--times", "weibull")
    assert "weibull accelerated failure time" in weibull
    drawn = mine("fit", "mine.csv", "--y", "T", "--x", "m", "--law", "power", "--bootstrap", "100")
    assert "percentiles of 100 bootstrap tables of values of seed" in drawn


def test_several_laws_are_compared_on_the_same_rows(mine: Terminal):
    several = ("--y", "T", "--x", "m", "--x", "L", "--law", "multiplicative", "--law", "additive", "--group", "kind")
    noise = np.exp(0.1 * np.random.default_rng(1).normal(size=120))
    table().assign(T=lambda t: 40 * t.m**-0.5 * t.L * noise).to_csv(mine.folder / "clean.csv", index=False)
    text = mine("fit", "clean.csv", *several)
    assert text.count("choice: these data prefer multiplicative to additive (AIC lower by") == 2
    found = json.loads(mine("fit", "clean.csv", *several, "--json"))
    assert [(each["law"], bool(each["choice"])) for each in found] == [
        ("multiplicative", False),
        ("additive", True),
    ] * 2
    alike = mine("fit", "clean.csv", "--y", "T", "--x", "m", "--law", "power", "--law", "offset-power")
    assert "choice: cannot be decided by these data" in alike  # its offset is 0, which says nothing against it
    assert "there is no law 'powr'" in mine("fit", "clean.csv", *several, "--law", "powr", expect=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent.csv",), "absent.csv is not there"),
        (("mine.txt",), "tables are .csv or .parquet files"),
        (("mine.csv", "--x", "width"), "there is no column 'width'"),
        (("mine.csv", "--y", "kind"), "'kind' must be numbers"),
        (("mine.csv", "--x", "m", "--x", "m"), "name each variable once"),
        (("mine.csv", "--y", "m"), "'m' is y and x at once"),
        (("mine.csv", "--cluster", "sed"), "there is no column 'sed'; did you mean seed"),
        (("mine.csv", "--group", "knd"), "there is no column 'knd'; did you mean kind"),
        (("mine.csv", "--censored", "kind"), "'kind' must be true or false"),
        (("mine.csv", "--law", "powr"), "there is no law 'powr'; there are multiplicative, power"),
        (("mine.csv", "--times", "cauchy"), "there are log-normal, weibull"),
        (("mine.csv", "--times", "weibull"), "times is 'weibull', of which only censored rows tell"),
        (("mine.csv", "--bootstrap", "-1"), "bootstrap is -1 tables; percentiles need 100 or more"),
        (("holes.csv",), "'T' is empty (NaN) in 1 of"),
        (("infinite.csv",), "'T' is infinite in 1 of"),
        (("zeros.csv",), "'T' is <= 0 in 1 of"),
        (("one_scale.csv",), "needs at least 2 distinct values of 'm'"),
        (("few.csv",), "needs at least 3 rows"),
        (("empty.csv",), "cannot be read as csv"),
        (("folder.csv",), "is a folder"),
        (("long_rows.csv",), "rows have more fields than the header names"),
        (("one_word.csv",), "'T' must be numbers; 1 of 120 are not, such as 'oops' in row 4"),
        (("lists.parquet", "--group", "which"), "'which' must be numbers or names; 120 of 120 rows hold lists"),
        (("lists.parquet", "--cluster", "which"), "'which' must be numbers or names; 120 of 120 rows hold lists"),
        (("lists.parquet", "--censored", "which"), "'which' must be true or false, or 1 and 0; 120 of 120"),
        (("garbage.parquet",), "cannot be read as parquet"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_in_a_line(mine: Terminal, arguments: tuple[str, ...], words: str):
    frame = table()
    for name, value in (("holes", np.nan), ("infinite", np.inf), ("zeros", 0.0)):
        changed = frame.copy()
        changed.loc[3, "T"] = value
        changed.to_csv(mine.folder / f"{name}.csv", index=False)
    frame[frame.m == 32].to_csv(mine.folder / "one_scale.csv", index=False)
    frame[["seed", "m", "T"]].iloc[[0, 30]].to_csv(mine.folder / "few.csv", index=False)
    (mine.folder / "empty.csv").write_text("")
    (mine.folder / "folder.csv").mkdir()
    (mine.folder / "long_rows.csv").write_text("m,T\n" + "".join(f"{i},{2**i},{4**-i}\n" for i in range(1, 9)))
    frame.assign(T=frame["T"].astype(object).where(frame.index != 3, "oops")).to_csv(mine.folder / "one_word.csv")
    frame.assign(which=[[1, 2]] * len(frame)).to_parquet(mine.folder / "lists.parquet")
    (mine.folder / "garbage.parquet").write_bytes(b"no parquet")
    (mine.folder / "mine.txt").write_text("m,T\n")
    given = {argument for argument in arguments if argument.startswith("--")}
    defaults = {"--y": "T", "--x": "m", "--law": "power"}
    rest = [word for name, value in defaults.items() if name not in given for word in (name, value)]
    output = mine("fit", *arguments, *rest, expect=2)
    assert words in output
    assert len(output.splitlines()) == 1
    assert Path(mine.folder / "mine.csv").exists()


def test_groups_of_which_some_cannot_be_fitted_end_with_exit_code_1(mine: Terminal):
    frame = table()
    frame[(frame.kind == "a") | (frame.m == 32)].to_csv(mine.folder / "some.csv", index=False)
    output = mine("fit", "some.csv", "--y", "T", "--x", "m", "--law", "power", "--group", "kind", expect=1)
    assert "kind = b: power not fitted: the law 'power' needs at least 2 distinct values" in output
    assert "kind = a: T = A x^-a" in output

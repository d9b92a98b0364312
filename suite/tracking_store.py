"""MLflow's store: opened without a word on the terminal, made whole or not at all, and examined."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sqlite3
import tempfile
import textwrap
import warnings
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from suite.redaction import redacted, without_secrets_of
from suite.storage import process_lives

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNFINISHED = ".mlflow-unfinished."
"""Begins the name of a folder in which a database is being made."""
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}

# A request repeated inside the HTTP layer could create a run twice when only the answer was lost, so it is this
# module that repeats, after it has looked the runs up again.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True)
class Store:
    """A tracking store as it was found."""

    uri: str
    """Without passwords."""
    is_there: str
    """What answers, in a few words."""
    problem: str | None = None
    """Why nothing can be written there."""


def default_tracking_uri(results_dir: Path | str) -> str:
    """The SQLite database of a results folder, by its absolute path."""
    return f"sqlite:///{Path(results_dir).resolve() / 'mlflow.db'}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite tracking store; None for any other store."""
    _, found, path = uri.partition("sqlite:///")
    path = path.partition("?")[0]
    return Path(path) if found and path and path != ":memory:" else None


def open_client(uri: str) -> MlflowClient:
    """Import MLflow without a word on the terminal, and make a client and the database if need be."""
    set_environment()
    warnings.filterwarnings("ignore", module=r"(mlflow|alembic|sqlalchemy|google|pydantic)\b.*")
    database = sqlite_file(uri)
    if database is None or database.exists():
        _probe(uri)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # a full disk, say, which the tracker tells itself
    if database is not None and not database.exists():
        _create_database(database)
    return MlflowClient(tracking_uri=uri)


def set_environment() -> None:
    """What MLflow reads at import; what the user has set stays."""
    for key, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def examine_store(uri: str) -> Store:
    """Whether runs can be written to a store, without writing anything."""
    database, public = sqlite_file(uri), redacted(uri)
    if database is not None and not database.exists():
        return Store(public, "a database that the first run makes")
    try:
        if database is not None:
            _check_is_mlflow(database)
        client = open_client(uri)
        client.search_experiments(max_results=1)
        return _store_of(uri, public)
    except Exception as error:
        return Store(public, "", f"cannot be used ({reason_of(error, uri)})")


def _store_of(uri: str, public: str) -> Store:
    """What is known of a store that has let this process in."""
    from mlflow import __version__

    if not uri.startswith("http"):
        return Store(public, f"MLflow {__version__} lets this process in")
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(uri), "/version", "GET", max_retries=0)
    there = answer.text.strip() if answer.ok else ""
    if not re.fullmatch(r"\d+\.\S+", there):
        return Store(public, "a server that does not tell its version lets this process in")
    problem = (
        f"is MLflow {there}, and here is {__version__}" if there.split(".")[0] != __version__.split(".")[0] else None
    )
    return Store(public, f"MLflow {there} lets this process in", problem)


def _check_is_mlflow(database: Path) -> None:
    """Fail for a database without MLflow's tables, which MLflow itself would fill with them."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        known = connection.execute("select count(*) from sqlite_master where name = 'alembic_version'").fetchone()
    if not known[0]:
        raise ValueError("it is no database of MLflow's")


def _probe(uri: str) -> None:
    """Fail at once for a database that cannot be opened: MLflow itself would retry for minutes without a word."""
    if uri.split(":")[0].split("+")[0] in {"sqlite", "postgresql", "mysql", "mssql"}:
        from sqlalchemy import create_engine, inspect

        engine = create_engine(uri)
        try:
            inspect(engine).has_table("experiments")
        finally:
            engine.dispose()


def _create_database(database: Path) -> None:
    """Make a database with all its tables, which takes MLflow seconds, or none: a kill leaves a folder that is ignored.

    Of two processes that do so at once, the second uses what the first has made.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(database.parent)
    prefix = f"{UNFINISHED}{socket.gethostname()}.{os.getpid()}."
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=prefix) as folder:
        made = Path(folder) / database.name
        store = SqlAlchemyStore(f"sqlite:///{made}", (database.parent.resolve() / "mlartifacts").as_uri())
        store.engine.dispose()
        with suppress(FileExistsError):
            os.link(made, database)


def _remove_unfinished(parent: Path) -> None:
    """Remove what processes of this host that are dead left of databases they were making."""
    for folder in parent.glob(f"{UNFINISHED}{socket.gethostname()}.*"):
        pid = folder.name.split(".")[-2]
        if pid.isdigit() and not process_lives(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def relocate(database: Path | None, artifact_root: Path | None) -> None:
    """Let runs find their files again after the folder with the database and the files was moved or copied.

    MLflow keeps absolute paths, and would write the files of later runs to the old place.
    """
    if database is None or artifact_root is None or database.resolve().parent != artifact_root.resolve().parent:
        return
    here = artifact_root.resolve().as_uri()
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        known = connection.execute("select distinct artifact_location from experiments").fetchall()
        for (old,) in known:
            if old != here and old.startswith("file:") and old.endswith(f"/{artifact_root.name}"):
                moved = (here, len(old) + 1, len(old) + 1, f"{old}/")
                connection.execute(
                    "update experiments set artifact_location = ? where artifact_location = ?", (here, old)
                )
                connection.execute(
                    "update runs set artifact_uri = ? || substr(artifact_uri, ?) where substr(artifact_uri, 1, ?) = ?",
                    moved,
                )


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered that it will not take this, rather than that it cannot now."""
    code = getattr(error, "error_code", None)
    return code in REFUSALS if code else not isinstance(error, OSError)


def reason_of(error: Exception, uri: str) -> str:
    """The cause in a few words, without passwords."""
    text = without_secrets_of(uri, " ".join(str(getattr(error, "orig", error)).split()))
    for pattern, reason in (
        (r"(?i)refused", "connection refused"),
        (r"(?i)timed out|timeout", "no answer in time"),
        (r"(?i)name or service|resolve|getaddrinfo|name resolution", "unknown host"),
        (r"(?i)locked", "the database is locked"),
        (r"table \S+ already exists|duplicate column", "a run was killed while it made this database: move it away"),
    ):
        if re.search(pattern, text):
            return reason
    return textwrap.shorten(text or type(error).__name__, 160, placeholder=" …").rstrip(".")

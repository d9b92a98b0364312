"""One transaction around many calls of MLflow's SQL store: fewer statements and waits, and all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


@contextmanager
def one_transaction(store: Any) -> Iterator[None]:
    """What this thread writes to the store within the block is committed at its end, or rolled back after an error.

    MLflow opens several sessions in every call, and each sets pragmas, looks its run up again and commits: here all
    of them are one. A store without sessions, such as a server's, writes as usual.
    """
    opened = getattr(store, "ManagedSessionMaker", None)
    if opened is None:
        yield
        return
    owner = threading.get_ident()
    with opened(read_only=False) as session:

        def shared(read_only: bool = True) -> AbstractContextManager[Any]:
            mine = threading.get_ident() == owner
            return nullcontext(session) if mine else opened(read_only=read_only)

        store.ManagedSessionMaker = shared
        session.commit, session.rollback = session.flush, _refuse_rollback
        try:
            yield
        finally:
            del session.commit, session.rollback
            store.ManagedSessionMaker = opened


def _refuse_rollback() -> None:
    """MLflow goes on after the rollback of one call, which here would lose those before it."""
    raise RuntimeError("a part of a transaction cannot be taken back")

"""The queue's file: SQLite, in transactions that outlive the death of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, event
from sqlalchemy.orm import Session

from kontext.local.record import Base


class Database:
    """An open file.

    Args:
        path: Made when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(URL.create("sqlite", database=str(path)))
        event.listen(self._engine, "connect", _durable_but_quick)
        Base.metadata.create_all(self._engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit at the end of the block; what it loaded stays readable."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()


def _durable_but_quick(connection: Any, _record: object) -> None:  # noqa: ANN401 - the DB-API's
    """Survive the death of the process at every commit, without waiting for the disk at each."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")

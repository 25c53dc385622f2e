"""The database under the ledger: transactions, its clock, and what happens when it is away.

Everything that changes is one transaction, and each may be tried again: what a lost connection has
left open is found out by looking. So a database that is locked or restarts is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bayeslora_tool.workers import begin_anew_after_fork

try:
    import sqlalchemy as sa
    from sqlalchemy import event
    from sqlalchemy.engine import URL, Connection, Engine, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
    from sqlalchemy.exc import TimeoutError as AllConnectionsBusy
    from sqlalchemy.pool import NullPool

    from bayeslora_tool.desk.migration import migrate
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[desk]"') from None

T = TypeVar("T")

_NOW = {
    "sqlite": "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}
_READS = "bayeslora_reads"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between two tries


class LedgerError(OSError):
    """The ledger's database is away, locked or full. What was asked for was not done by halves."""


class Store:
    """A database that holds a ledger.

    Args:
        place: A file for SQLite, or a URL: ``postgresql+psycopg://user@host/name``.
        create: Whether a ledger is made where there is none.
        patience: Seconds to wait for a database that is locked or away, > 0.
    """

    def __init__(self, place: str | Path, *, create: bool, patience: float) -> None:
        if not patience > 0:
            raise ValueError(f"`patience` (={patience!r}) must be a number of seconds > 0")
        url = _url(place)
        self.name = url.render_as_string(hide_password=True)
        self.patience = patience
        self.kind = url.get_backend_name()
        file = url.database if self.kind == "sqlite" else None
        if file and not create and not Path(file).exists():
            raise FileNotFoundError(
                f"there is no ledger {file!r}; see --ledger; `add-reviewer` and Ledger() make one"
            )
        self.engine = _engine(url, patience)
        begin_anew_after_fork(self)
        try:
            if self.kind == "sqlite":
                self._patiently(self._let_readers_in)
            self.write(lambda connection: migrate(connection, create=create))
        except BaseException:
            self.close()
            raise

    def after_fork(self) -> None:
        """The parent's connections are not the child's."""
        self.engine.dispose(close=False)

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in one transaction, and again if the database was locked or lost.

        Raises:
            LedgerError: It did not come back in time, or refuses, for example for a full disk.
        """
        return self._patiently(lambda: self._once(self.engine, work))

    def read(self, work: Callable[[Connection], T]) -> T:
        """The same for what changes nothing, and sees one moment of the ledger."""
        options: dict[str, Any] = {_READS: True}
        if self.kind == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
        engine = self.engine.execution_options(**options)
        return self._patiently(lambda: self._once(engine, work))

    def now(self, connection: Connection) -> int:
        """The database's time, in milliseconds since 1970."""
        return int(connection.exec_driver_sql(_NOW[self.kind]).scalar_one())

    def forget(self) -> None:
        """See that what was erased is in no file any more, unless somebody reads it just now."""
        if self.kind == "sqlite":  # Postgres' own vacuum does it, in time
            self._patiently(lambda: self._directly("PRAGMA wal_checkpoint(TRUNCATE)"))

    def _once(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        with engine.begin() as connection:
            return work(connection)

    def _let_readers_in(self) -> None:
        # Write-ahead logging, which the file remembers: who reads and who writes do not wait.
        self._directly("PRAGMA journal_mode=WAL")

    def _directly(self, statement: str) -> None:
        """Run what SQLite runs outside of transactions only."""
        with self.engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            try:
                raw.execute(statement)
            except Exception as error:
                raise DBAPIError.instance(
                    statement, None, error, self.engine.dialect.loaded_dbapi.Error
                ) from error

    def _patiently(self, attempt: Callable[[], T]) -> T:
        ends, pause = time.monotonic() + self.patience, _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                if not _passes(error) or time.monotonic() >= ends:
                    then = "try again" if _passes(error) else "see to that, then try again"
                    raise LedgerError(
                        f"the ledger {self.name} does not answer: {error.orig}. No decision is "
                        f"there by halves; {then}"
                    ) from error
            except AllConnectionsBusy as error:  # who has them waits for the database, too
                raise LedgerError(
                    f"the ledger {self.name} does not answer: others wait for it on all "
                    f"connections of this process; try again"
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _passes(error: DBAPIError) -> bool:
    """Whether it may be otherwise in a moment."""
    said = str(error.orig)
    if error.connection_invalidated or "database is locked" in said:
        return True
    # Of Postgres, 08: connection, 40: another transaction, 57P: it shuts down or starts up.
    code = getattr(error.orig, "sqlstate", None) or ""
    if code.startswith(("08", "40", "57P")):
        return True
    return not code and any(word in said for word in ("connection", "server closed"))


def _url(place: str | Path) -> URL:
    if isinstance(place, Path) or "://" not in place:
        return URL.create("sqlite", database=str(place))
    try:
        url = make_url(place)
        kind = url.get_backend_name()
    except ArgumentError as error:
        raise ValueError(f"`place` is no URL of a database: {error}") from None
    if kind == "postgresql" and url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if kind not in _NOW or (kind == "sqlite" and not url.database):
        raise ValueError(
            f"`place` (={url.render_as_string()!r}) must be a file for SQLite, or "
            f"postgresql+psycopg://user@host/name"
        )
    return url


def _engine(url: URL, patience: float) -> Engine:
    # What is written may be what people wrote: errors, which are logged, do not quote it.
    if url.get_backend_name() == "postgresql":
        try:
            postgres = sa.create_engine(
                url,
                pool_pre_ping=True,
                pool_timeout=patience,
                hide_parameters=True,
                connect_args={"connect_timeout": max(2, round(patience))},
            )
        except (ImportError, NoSuchModuleError) as error:
            raise ValueError(f'{error}; pip install "psycopg[binary]"') from None

        @event.listens_for(postgres, "connect")
        def begun_to_talk(connection: Any, _: Any) -> None:
            # Postgres itself would wait for a lock for as long as somebody holds it.
            connection.autocommit = True  # or the first rollback would undo it
            connection.cursor().execute(f"SET lock_timeout = {max(1, round(1000 * patience))}")
            connection.autocommit = False

        return postgres
    engine = sa.create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"isolation_level": None, "timeout": patience},
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        # A decision that was told to somebody outlives a power cut.
        connection.execute("PRAGMA synchronous=FULL")
        # What is erased is overwritten, not left in pages that are free.
        connection.execute("PRAGMA secure_delete=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # Who means to write says so first, and so never finds that another was quicker.
        reads = connection.get_execution_options().get(_READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine

"""Bring a ledger to this version; an empty database becomes a new ledger."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

_LOCK = 7_306_112_541  # any number, the same for all who migrate


def migrate(connection: Connection, *, create: bool) -> None:
    """Make, or bring up to date, the ledger of a connection, in its transaction.

    Args:
        connection: In a transaction that others wait for.
        create: Whether an empty database may become a ledger.

    Raises:
        FileNotFoundError: There is no ledger, and none was to be made.
        ValueError: A later version has made it.
    """
    if connection.dialect.name == "postgresql":  # SQLite's transaction keeps others out
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = Config()
    config.set_main_option("script_location", "bayeslora_tool.desk:migrations")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    known = [script.revision for script in scripts.walk_revisions()]  # newest first
    found = MigrationContext.configure(connection).get_current_revision()
    if found == known[0]:
        return
    if found is None and not create:
        raise FileNotFoundError("there is no ledger in this database")
    if found is not None and found not in known:
        raise ValueError(
            f"the ledger is of version {found}, and this package knows {known[0]} at most; "
            f"install the version of bayeslora-tool that made it, or a later one"
        )
    command.upgrade(config, "head")

"""Which store of jobs the settings ask for."""

from __future__ import annotations

from pathlib import Path

from hatespeech.errors import SettingsError
from hatespeech.extras import how_to_install
from hatespeech.serving.jobs.sqlite.sqlite_store import SqliteStore
from hatespeech.serving.jobs.store import Store
from hatespeech.serving.settings import ServerSettings


def open_store(settings: ServerSettings) -> Store:
    """Open ``JOBS_DB``; raise :class:`SettingsError` if that fails."""
    if isinstance(settings.jobs_db, Path):
        return SqliteStore(settings.jobs_db, settings.job_ttl)
    try:
        from hatespeech.serving.jobs.postgres.postgres_store import PostgresStore
    except ImportError:  # psycopg raises it, too, if it finds no libpq
        raise SettingsError(
            f"JOBS_DB=postgresql://… needs psycopg: {how_to_install('postgres')}"
        ) from None
    return PostgresStore(settings.jobs_db.get_secret_value(), settings.job_ttl)

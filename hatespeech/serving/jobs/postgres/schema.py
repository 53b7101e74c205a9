"""The tables of jobs in PostgreSQL, and how those of an older release become today's."""

from __future__ import annotations

import secrets
from typing import Any, Final

import psycopg

# What each version adds to the one before it. Never change one that was released: add one.
MIGRATIONS: Final = (
    """
    CREATE TABLE hatespeech_jobs (
        id text PRIMARY KEY,
        place bigint GENERATED ALWAYS AS IDENTITY,  -- in the queue
        owner bytea NOT NULL,      -- keyed hash of the token that submitted it
        status text NOT NULL,
        input text,                -- JSON; NULL once the job is finished
        output text,               -- JSON
        error text,
        attempts integer NOT NULL DEFAULT 0,
        server text,               -- that runs it
        lease timestamptz,         -- until when it does, unless it says that it still lives
        created timestamptz NOT NULL DEFAULT now(),
        started timestamptz,
        finished timestamptz,
        expires timestamptz,
        retry_key bytea,           -- keyed hash of the Idempotency-Key
        retry_body bytea           -- keyed hash of the body sent with it
    );
    CREATE INDEX hatespeech_jobs_waiting ON hatespeech_jobs (attempts, place)
        WHERE status = 'IN_QUEUE';
    CREATE INDEX hatespeech_jobs_leases ON hatespeech_jobs (lease) WHERE status = 'IN_PROGRESS';
    CREATE INDEX hatespeech_jobs_expiry ON hatespeech_jobs (expires) WHERE expires IS NOT NULL;
    CREATE UNIQUE INDEX hatespeech_jobs_retries ON hatespeech_jobs (owner, retry_key)
        WHERE retry_key IS NOT NULL;
    """,
    """
    ALTER TABLE hatespeech_jobs
        ADD COLUMN ttl double precision,       -- seconds after which it must be answered
        ADD COLUMN deadline timestamptz,       -- when those are over
        ADD COLUMN run_limit double precision; -- seconds for which it may run
    CREATE INDEX hatespeech_jobs_deadlines ON hatespeech_jobs (deadline)
        WHERE status = 'IN_QUEUE' AND deadline IS NOT NULL;
    """,
    """
    ALTER TABLE hatespeech_jobs
        ADD COLUMN webhook text,              -- URL to tell when it has ended
        ADD COLUMN webhook_due timestamptz,   -- not before that
        ADD COLUMN webhook_tries integer NOT NULL DEFAULT 0,
        ADD COLUMN webhook_done boolean NOT NULL DEFAULT false;
    CREATE INDEX hatespeech_jobs_webhooks ON hatespeech_jobs (webhook_due)
        WHERE webhook IS NOT NULL AND NOT webhook_done;
    """,
    """
    DROP INDEX hatespeech_jobs_webhooks;
    CREATE INDEX hatespeech_jobs_to_tell
        ON hatespeech_jobs (owner, coalesce(webhook_due, '-infinity'))
        WHERE webhook IS NOT NULL AND NOT webhook_done AND expires IS NOT NULL;
    CREATE INDEX hatespeech_jobs_owners ON hatespeech_jobs (owner, status);
    """,
    """
    DROP INDEX hatespeech_jobs_waiting;
    CREATE INDEX hatespeech_jobs_in_turn ON hatespeech_jobs (attempts, owner, place)
        WHERE status = 'IN_QUEUE';
    """,
)
LOCK: Final = 0x68617465_6A6F6273  # of PostgreSQL's advisory locks; two servers may start together


class SchemaError(Exception):
    """The database can't hold jobs of this release; the message says why."""


def prepare(connection: psycopg.Connection[Any]) -> bytes:
    """Make or upgrade the tables, and return the salt that all servers share.

    The connection must not be in a transaction. Raises :class:`SchemaError` if the tables are of a
    newer release, or if the database can't hold every text.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        (encoding,) = _row(connection, "SHOW server_encoding")
        if encoding != "UTF8":
            raise SchemaError(f"the database's encoding is {encoding}, and must be UTF8")
        (table,) = _row(connection, "SELECT to_regclass('hatespeech_meta')::text")
        if table is None:
            connection.execute(
                "CREATE TABLE hatespeech_meta (version integer NOT NULL, salt bytea NOT NULL)"
            )
            connection.execute(
                "INSERT INTO hatespeech_meta VALUES (0, %s)", (secrets.token_bytes(32),)
            )
        version, salt = _row(connection, "SELECT version, salt FROM hatespeech_meta")
        if version > len(MIGRATIONS):
            raise SchemaError("its tables are of a newer release")
        for migration in MIGRATIONS[version:]:
            connection.execute(migration)
        if version < len(MIGRATIONS):
            connection.execute("UPDATE hatespeech_meta SET version = %s", (len(MIGRATIONS),))
    return bytes(salt)


def _row(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    if row is None:
        raise SchemaError("hatespeech_meta is empty")
    return row

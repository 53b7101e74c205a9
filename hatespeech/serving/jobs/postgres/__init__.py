"""Jobs in a PostgreSQL database, for several servers.

    postgres_store.py  the table of jobs: who runs which, and until when
    link.py            connections: bounded, with a time limit, made again after an outage
    notices.py         what servers tell each other: jobs wait, a job has ended
    schema.py          the tables, and how those of an older release become today's

It needs the extra ``postgres``: import it only if the setting ``JOBS_DB`` asks for it.
"""

"""Asynchronous jobs.

    runner.py      accepts jobs, runs them, answers callers that wait, forgets old results
    store.py       the table of jobs: what is accepted, and the result of each
    database.py    the thread that owns the SQLite file and groups commits

Each knows only the one below it.
"""

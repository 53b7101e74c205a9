"""Asynchronous jobs.

    runner.py           accepts jobs, runs them, answers callers that wait, forgets old results
    scores_or_error.py  the header for callers that pay by the status: no scores, no 2xx
    store.py            the table of jobs: what is accepted, and the result of each
    database.py         the thread that owns the SQLite file and groups commits

The first two know the store, and the store knows the database.
"""

"""Asynchronous jobs.

    submission.py       what a caller submits: input, policy, webhook
    runner.py           accepts jobs, runs them, answers callers that wait, forgets old results
    webhooks.py         tells callers' URLs that their jobs have ended
    webhook_urls.py     which URLs those may be
    turns.py            whose job runs next, and whose webhook is sent
    scores_or_error.py  the header for callers that pay by the status: no scores, no 2xx
    store.py            what every store of jobs promises
    opening.py          which store the settings ask for
    sqlite/             a file, for one server
    postgres/           a database, for several

The first two know what a store promises, and not which one it is.
"""

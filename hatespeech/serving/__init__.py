"""The HTTP front: the same engine behind FastAPI, safe to put on the internet.

    app.py            the factory: routes, middleware, start and stop
    engine.py         the model behind it: loading, ready or broken
    envelope.py       around every request: id, security headers, log line, metrics, last resort
    auth.py           who may ask, and for what without a token
    limits.py         how often, how much, how slowly
    protocol.py       the same limits where no application can set them: on the connection
    messages.py       bodies in, errors out
    jobs.py, store.py asynchronous jobs, and the SQLite file they live in
    files.py          a file of texts in, the same file with scores out
    tables.py, parquet.py   the formats
    metrics.py        Prometheus
    documents.py      what OpenAPI says of all this
    routes_*.py       the routes
    demo/             the page of GET /demo

Nothing here imports torch before the port is bound.
"""

"""The HTTP front: the same engine behind FastAPI, safe to put on the internet.

    command.py        the server's command line: bind the port, run uvicorn
    app.py            the application: routes, middleware, start and stop
    settings.py       the server's settings, in addition to the engine's
    served_model.py   the model behind the routes: loading, ready or broken
    guards/           around every request: request id, token, limits, log line
    routes/           one module for each group of routes
    compat/           other services' protocols, for their clients
    reading.py        JSON bodies, query strings, callers that hang up
    route_path.py     the path without a proxy's prefix
    http_errors.py    the errors that only HTTP has; every error's status and body
    grpc/             the same service over gRPC, in the same process
    openapi.py        the document at /openapi.json
    payments/         calls that are sold: prices, ways to pay, receipts
    jobs/             asynchronous jobs and the SQLite file that keeps them
    uploads/          a file of texts in, the same file with scores out
    metrics.py        what Prometheus reads
    demo/             the page at /demo

Nothing here imports torch before the port is bound.
"""

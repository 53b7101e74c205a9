"""Around every request: who may call, how often, how much and how slowly, and what is logged.

    envelope.py      the outermost: request id, security headers, log line, metrics, last resort
    auth.py          the token, and the paths that do not need one
    origins.py       the preflight of a page whose origin may not call
    limits.py        requests of one caller, size and speed of a body
    rate_counts.py   where the requests are counted: here, or in Redis
    paywall.py       the innermost: lets a buyer's reply go once it is paid for
    connection.py    deadlines that only the connection itself can keep

``serving/app.py`` puts them in order.
"""

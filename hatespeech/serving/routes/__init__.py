"""The routes, in groups.

    service.py    GET /, /ping, /health and /metrics
    docs.py       GET /docs and /openapi.json
    demo.py       GET /demo
    score.py      GET and POST /score
    files.py      POST /score/file
    jobs.py       POST /run, /runsync and /cancel, GET /status; the same below /v2/{endpoint_id}
    static.py     files that browsers may keep

Each group is a function that makes an ``APIRouter``.
"""

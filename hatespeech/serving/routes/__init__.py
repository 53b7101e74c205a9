"""The routes, in groups.

    service.py    GET /, /ping, /health and /metrics
    docs.py       GET /docs and /openapi.json
    demo.py       GET /demo
    score.py      GET and POST /score
    files.py      POST /score/file
    jobs.py       /run, /runsync, /status, /cancel and what else Runpod's clients call; the same
                  below /v2/{endpoint_id}
    static.py     files that browsers may keep

Each group is a function that makes an ``APIRouter``.
"""

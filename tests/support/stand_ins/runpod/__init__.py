"""Stands in for a Runpod serverless endpoint on 127.0.0.1: real HTTP, real jobs, no internet.

- ``jobs``: a job, and what an answer makes of it
- ``queue``: the workers' half: jobs by long polls, answers, pings, as the SDK of version 1.12 asks
- ``endpoint``: the callers' half on top of it: ``/run``, ``/runsync``, ``/status``, ``/cancel``
- ``worked``: an endpoint with the service's own handler behind it, and a daemon before it
"""

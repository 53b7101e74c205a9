"""What the service tells about itself: log lines, metrics, traces; never a text.

    tally.py      what a reply holds, counted once, and the totals of the process
    recorder.py   what every front tells: replies, requests and jobs that end, a line a minute
    families.py   the totals, the device's counters and the versions, as Prometheus reads them
    tracing.py    spans of requests and jobs, over OpenTelemetry
    otlp.py       sends spans and metrics to a collector, and never waits for one

A front makes one :class:`~hatespeech.telemetry.recorder.Recorder` and tells it what it answers.
"""

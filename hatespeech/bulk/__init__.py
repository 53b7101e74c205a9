"""Bulk scoring, ``score.py``: files of texts in, the same files with scores out.

    command.py           the command line, the summary and the exit codes
    plan.py              what a run reads and writes, and what identifies it
    standard_streams.py  standard input as IN, standard output as OUT
    places.py            paths and URLs through fsspec; finds the input files
    run.py               the run: check, score and write, finish
    row_scoring.py       reads rows once, has them scored, and writes them behind their scores
    by_file.py           the run in which a cluster's machines do these steps, file by file
    reach.py             whether another machine finds the files of a run
    flagging.py          what --thresholds asks for
    text_sample.py       a warning if the first texts are none
    output.py            writes rows and scores side by side
    workspace.py         all that a run keeps in OUT.partial: parts, notes, receipt, lock
    statistics.py        counts and examples, for the summary and the report
    written_rows.py      the rows of an output for the statistics, read again from OUT
    report.py            the HTML page of --report
    finished_page.py     the page of an output that is there
    report_command.py    the command line of hatespeech report
    engines/             what scores the chunks: this machine, Ray or Runpod

A run cuts its input into chunks of a fixed number of rows (messages call them parts) and keeps the
scores of each in OUT.partial. A resumed run scores only the chunks that are missing.
"""

from __future__ import annotations


class RunError(Exception):
    """The run can't start or continue.

    The message is one line, says what to do, and never quotes a text.
    """

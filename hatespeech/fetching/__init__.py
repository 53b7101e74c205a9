"""Fetching, ``download.py``: the published checkpoint and its tokenizer, made into a folder.

    options.py     the command line
    command.py     the stages of the command: fetch, convert, check, report
    workplace.py   the hidden folder of unfinished work, free disk space, the progress bar
    http.py        the resumable download of one file
    tokenizer.py   the tokenizer's files, fetched and made into tokenizer.json
    folder.py      the checkpoint folder: converted, checked, recognised on a second run
    hub_upload.py  a checkpoint folder, uploaded to Hugging Face's hub
    pickle/        reads the published pickle without running it

The image build copies __init__, http and workplace, and the modules that they import, into a layer
of their own: an edit of one of them downloads 1.4 GB again.
"""

from __future__ import annotations


class FetchError(Exception):
    """Something could not be fetched, or was refused after it arrived.

    The message is one line and holds no credentials: URLs in it have no user, no password and no
    query string.
    """

"""Bulk scoring: files of texts in, files of scores out; see ``score.py``."""

"""Asynchronous jobs: the queue, its SQLite store, and the database thread."""

"""Jobs in an SQLite file, for one server.

sqlite_store.py  the table of jobs
database.py      the thread that owns the file and groups commits
reserve.py       room on the disk that is kept for deleting
"""

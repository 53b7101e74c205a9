"""A file of texts in, the same file with scores out.

    upload.py           receives a file, chooses its format, scores it chunk by chunk
    table.py            what every format can do
    text_tables.py      CSV, TSV and JSONL
    parquet_table.py    Parquet, which another process reads
    parquet_process.py  that process

A file is never in memory as a whole.
"""

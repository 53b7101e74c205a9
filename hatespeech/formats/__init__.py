"""What uploads and bulk scoring share about file formats.

records.py          records of CSV, TSV and JSONL: their dialects and limits, and blocks of them
parquet_batches.py  Parquet in batches of limited size
limited_process.py  a process with a limit on its memory, which reads what strangers send
"""

"""Uploaded files: CSV, TSV, JSONL and Parquet, read and written in chunks."""

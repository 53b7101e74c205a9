"""What uploads and bulk scoring share about file formats.

records.py  records of CSV, TSV and JSONL: their dialects and limits, and blocks of them
"""

"""The file formats of a bulk run, read and written in blocks of rows.

    interface.py     an input table, a writer, and a block of rows
    lines.py         CSV, TSV and JSONL
    parquet.py       Parquet
    conversion.py    rows of one format, written as another
    json_values.py   single values on their way between formats

``hatespeech.bulk.plan`` chooses a table and a writer by a file's name.
"""

"""Files of texts: one reader and one writer for each format, for uploads and bulk scoring alike.

    names.py            a file's format, by its name
    file_options.py     what a caller can ask of a file
    interface.py        a source, a reader, a writer, and a block of rows
    choice.py           the reader and the writer of each format
    dialects.py         separators, quotes and headers, as the caller says them
    encodings.py        byte order marks, and other encodings
    columns.py          the column with the texts, found or missed
    records.py          records of files of text: a limit on one, and blocks of them
    lines.py            CSV, TSV, JSONL, and what is read as one of them
    json_arrays.py      the items of a JSON array
    workbook_rows.py    the rows of an .xlsx file
    parquet.py          Parquet
    parquet_batches.py  Parquet in batches of limited size
    packing_codecs.py   gzip, Zstandard, bzip2 and xz
    scores.py           the columns that scoring adds
    conversion.py       rows of one format, written as another
    json_values.py      single values on their way between formats
    scored_file.py      a file that strangers send, read and written piece by piece
    foreign_parquet.py  Parquet that another process reads
    parquet_process.py  that process
    limited_process.py  a process with a limit on its memory

A reader's errors are those of its source, so they name the file as its program does.
"""

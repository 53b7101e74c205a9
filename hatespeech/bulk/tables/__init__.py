"""The file formats of a bulk run, read and written in blocks of rows."""

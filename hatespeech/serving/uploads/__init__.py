"""A file of texts in, the same file with scores out.

    form.py     the form: one file, whole, and a few fields
    fields.py   the form's other fields
    upload.py   receives a file, chooses its format, scores it block by block
    table.py    reads and writes it, with the readers and writers of ``hatespeech.formats``

A file is never in memory as a whole.
"""

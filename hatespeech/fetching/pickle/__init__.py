"""Reads the published pickle, a whole ``CustomModel``, as data and never runs it.

    module.py      the entry: a file in, the module's tensors and sizes out
    container.py   the file: the zip archive or the legacy series of pickles, and its storages
    kinds.py       what a file is that is not torch's
    reader.py      interprets one pickle
    values.py      the names that a pickle may use, and the inert values that they become

Each module refuses what it does not know, with :class:`UnsafePickleError`.
"""

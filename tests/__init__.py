"""The tests. The tree is the package's: what ``hatespeech/bulk`` does, ``tests/bulk`` tests.

Beside it:

- ``conformance``: one list of requests and replies that every front is held to
- ``docs``, ``image``, ``singularitynet``: the pages, the image and the front of SingularityNET
- ``support``: what the tests share; ``data``: files they read; ``paths``: where things lie
"""

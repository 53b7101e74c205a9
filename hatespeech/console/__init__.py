"""The command ``hatespeech``.

commands.py    what it can do: the table of its commands, the choice between them, its help
one_text.py    ``hatespeech TEXT``: score one text and show the result
completion.py  ``hatespeech --print-completion SHELL``: completion scripts for shells
"""

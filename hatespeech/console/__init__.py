"""The command ``hatespeech``.

command_table.py  its commands: where each is and what it needs
commands.py       the choice between them, and the help
one_text.py       ``hatespeech TEXT``: score one text and show the result
completion.py     ``hatespeech --print-completion SHELL``: completion scripts for shells
"""

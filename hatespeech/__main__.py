"""``python -m hatespeech``: the command ``hatespeech``, where it is not installed."""

from hatespeech.console.commands import main

if __name__ == "__main__":
    main()

"""The measurements behind the claims. README.md lists them; run ``python -m benchmarks.NAME``."""

import os

from hatespeech.libraries import set_library_defaults

set_library_defaults(os.environ)  # as app.py and server.py do, before torch is imported

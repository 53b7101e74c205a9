"""Takes the pictures of docs/evaluating.md: its first command's page, in a browser.

To be run when the embedded checkpoint or the page changes; Chromium must be installed:

    python -m tests.support.evaluation_pictures

A picture holds the page that it was taken of, as a text chunk, so that a test can tell an old
picture: its pixels depend on the fonts of the machine, and its figures on the processor's rounding.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from hatespeech.evaluation import command
from tests.paths import EMBEDDED, ROOT, SAMPLE
from tests.support.browsers import chromium

DESK: Final = ROOT / "docs" / "evaluating-desk.png"
PHONE: Final = ROOT / "docs" / "evaluating-phone.png"
CHUNK: Final = "Page"


def evaluation_page(folder: Path) -> Path:
    """Evaluate the sample with the embedded checkpoint, as docs/evaluating.md does."""
    labelled = folder / "labelled.tsv"
    shutil.copy(SAMPLE, labelled)
    page = folder / "report.html"
    options = ["--group-column", "source", "--report", str(page)]
    assert command.main([str(labelled), *options]) == 0
    return page


def layout(page: str) -> str:
    """Return the part of a page that a picture shows, with N for each figure, without the curves.

    The style stays as it is, and so does the model's name@hash, on which the figures depend.
    """
    head, _, body = page.partition("<body>")
    seen = body.partition("<h2>Thresholds")[0]
    seen = re.sub(r"<svg.*?</svg>", "<svg/>", seen, flags=re.DOTALL)
    return head + re.sub(r"(\w+@[0-9a-f]{12})|\d[\d.,]*", lambda each: each[1] or "N", seen)


def layout_in(picture: Path) -> str:
    """Return the layout of the page that a picture was taken of."""
    with Image.open(picture) as image:
        assert isinstance(image, PngImageFile)
        return str(image.text[CHUNK])


def take(page: Path) -> None:
    """Write both pictures."""
    content = PngInfo()
    content.add_itxt(CHUNK, layout(page.read_text(encoding="utf-8")), zip=True)
    with chromium() as browser:
        for path, width, height in ((DESK, 1000, 1560), (PHONE, 360, 780)):
            shown = browser.new_page(viewport={"width": width, "height": height})
            shown.goto(page.as_uri())
            image = Image.open(io.BytesIO(shown.screenshot())).convert("RGB")
            image.quantize(256, kmeans=1).save(path, optimize=True, pnginfo=content)


def main() -> int:
    """Take the pictures."""
    os.environ.update({"MODEL_DIR": str(EMBEDDED), "DEVICE": "cpu"})
    with tempfile.TemporaryDirectory() as name:
        take(evaluation_page(Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Fetch the checkpoint file into a folder, where download.py finds it: fetch.py URL FOLDER.

This step of the image build needs neither torch nor the model's code, so editing those does not
fetch the file again.
"""

import sys
from pathlib import Path

from tqdm import tqdm

from hatespeech.fetching import FetchError
from hatespeech.fetching.http import download
from hatespeech.fetching.workplace import DownloadBar, require_room


def main() -> int:
    """Fetch, with download.py's time-out and retries; return the exit code."""
    url, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    progress = DownloadBar()
    try:
        download(
            url,
            folder,
            timeout=60.0,
            retries=5,
            require_room=lambda coming, _whole: require_room(folder, coming),
            progress=progress,
            notify=lambda line: tqdm.write(line, file=sys.stderr),
        )
    except (FetchError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    finally:
        progress.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

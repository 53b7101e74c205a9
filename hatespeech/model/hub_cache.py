"""Finds checkpoint folders in caches of Hugging Face's hub, such as Runpod's; downloads nothing.

A repository ``ORG/NAME`` lies in ``models--ORG--NAME``: each commit that was fetched is a folder in
``snapshots``, and ``refs/main`` names the commit that ``main`` was.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from hatespeech.errors import CheckpointError
from hatespeech.model.checkpoint import CONFIG

# Where Runpod mounts a network volume, and the models that it caches for an endpoint.
RUNPOD_VOLUME: Final = Path("/runpod-volume")
RUNPOD_CACHE: Final = RUNPOD_VOLUME / "huggingface-cache" / "hub"


def find(model_id: str, first: Path | None = None) -> Path:
    """Return the checkpoint folder of ``ORG/NAME``: from a cache, or from a network volume.

    The cache ``first`` is searched before Runpod's and the user's. Raises
    :class:`CheckpointError` if it is in none, or if it is not clear which commit is meant.
    """
    home = Path(os.path.expanduser("~/.cache/huggingface/hub"))  # noqa: PTH111 - Path may raise
    caches = [*([] if first is None else [first]), RUNPOD_CACHE, home]
    places = [cache / f"models--{model_id.replace('/', '--')}" for cache in caches]
    places.append(RUNPOD_VOLUME / model_id)
    for place in places:
        if place.is_dir():
            return snapshot_of(place)
    looked = ", ".join(str(place) for place in places)
    raise CheckpointError(f"MODEL_ID={model_id} is in none of {looked}; nothing is downloaded")


def snapshot_of(folder: Path) -> Path:
    """Return the snapshot of a repository's folder in a cache; any other folder as it is.

    The snapshot is that of ``refs/main`` or, without this file, the only one. Raises
    :class:`CheckpointError` if there is no such snapshot.
    """
    snapshots = folder / "snapshots"
    if (folder / CONFIG).exists() or not snapshots.is_dir():
        return folder
    try:
        commit = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = sorted(snapshot for snapshot in snapshots.iterdir() if snapshot.is_dir())
        if len(found) != 1:
            raise CheckpointError(
                f"{folder} has {len(found)} snapshots and no refs/main; set MODEL_DIR to one of "
                "its snapshots"
            ) from None
        return found[0]
    except (OSError, ValueError):
        commit = ""
    if not re.fullmatch(r"[0-9a-f]{1,64}", commit) or not (snapshots / commit).is_dir():
        raise CheckpointError(f"{folder}: refs/main names no snapshot; was it fetched completely?")
    return snapshots / commit

"""Builds images with buildah in a storage of its own, and runs them in namespaces."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.image.base import BASE, PATH, Wheels, fill_base, run
from tests.support.image.namespaces import NamespaceContainer


class Buildah:
    """An :class:`~tests.support.image.engine.Engine` that needs no daemon."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._storage, self._runs = folder, folder / "storage", 0
        self._options = [
            f"--root={self._storage / 'root'}",
            f"--runroot={self._storage / 'run'}",
            f"--storage-driver={choose_driver(folder)}",
        ]
        self._roots: dict[str, Path] = {}  # of each image, the files mounted

    def __call__(self, command: str, *arguments: str | Path) -> str:
        """Run a buildah command; return its output without the line's end."""
        return run("buildah", *self._options, command, *arguments).rstrip("\n")

    def make_base(self, wheels: Wheels) -> None:
        """Build the image ``BASE``."""
        container = self("from", "scratch")
        fill_base(Path(self("mount", container)), wheels)
        self("config", f"--env=PATH={PATH}", container)
        self("commit", "--format=docker", "--rm", container, BASE)

    def build(
        self,
        context: Path,
        name: str,
        build_arguments: Mapping[str, str],
        target: str | None = None,
    ) -> None:
        """Build ``context``'s Dockerfile, reusing layers, up to a stage or to the end."""
        self(
            "build",
            "--isolation=chroot",
            "--network=host",
            "--format=docker",
            "--pull-never",
            "--layers",
            *(f"--build-arg={key}={value}" for key, value in build_arguments.items()),
            *([f"--target={target}"] if target else []),
            f"--tag={name}",
            context,
        )

    def config(self, image: str) -> dict[str, Any]:
        """Return an image's configuration: ``User``, ``Env``, ``Entrypoint`` and so on."""
        return dict(json.loads(self("inspect", "--type=image", image))["Docker"]["config"])

    def layers(self, image: str, folder: Path) -> list[Path]:
        """Write an image's layers as tar files; return them from the base up."""
        self("push", "--quiet", "--disable-compression", image, f"dir:{folder}")
        manifest = json.loads((folder / "manifest.json").read_text())
        return [folder / layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]

    def copy_out(self, image: str, path: str, destination: Path) -> None:
        """Copy a folder of an image to this machine."""
        shutil.copytree(self._root(image) / path.lstrip("/"), destination)

    def start(
        self,
        image: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> NamespaceContainer:
        """Start a container on this machine's network."""
        self._runs += 1
        folder = self._folder / f"run-{self._runs}"
        config = self.config(image)
        root = self._root(image)
        return NamespaceContainer(root, config, folder, arguments, environment, mounts)

    def _root(self, image: str) -> Path:
        if image not in self._roots:
            self._roots[image] = Path(self("mount", self("from", "--pull-never", image)))
        return self._roots[image]

    def close(self) -> None:
        """Remove containers, images and the storage itself."""
        for command in ("umount", "rm"):
            subprocess.run(
                ["buildah", *self._options, command, "--all"], capture_output=True, check=False
            )
        # The overlay driver keeps its own folder mounted.
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split(" ")[1]
            if place.startswith(f"{self._storage}/"):
                subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
        shutil.rmtree(self._storage, ignore_errors=True)


def choose_driver(folder: Path) -> str:
    """Return ``overlay`` where such a mount works, else ``vfs``, which copies every layer whole."""
    probe = folder / "probe"
    for name in ("lower", "upper", "work", "merged"):
        (probe / name).mkdir(parents=True)
    options = f"lowerdir={probe}/lower,upperdir={probe}/upper,workdir={probe}/work"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(probe / "merged")]
    works = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if works:
        run("umount", probe / "merged")
    shutil.rmtree(probe)
    return "overlay" if works else "vfs"

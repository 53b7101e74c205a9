"""Whether another machine finds the files of a run where this one has them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from hatespeech.bulk import RunError
from hatespeech.bulk.places import Input, Place
from hatespeech.bulk.plan import Plan


@dataclass(frozen=True)
class Reach:
    """What another machine must find: a mark in ``OUT.partial``, and the first input."""

    folder: Place
    mark: str
    source: Input

    @classmethod
    def of(cls, plan: Plan) -> Reach:
        """Put a mark into ``OUT.partial``."""
        mark = secrets.token_hex(8)
        (plan.partial / "reach").write(mark.encode())
        return cls(plan.partial, mark, plan.inputs[0])

    def require(self) -> None:
        """Raise :class:`RunError` or :class:`OSError` unless this machine can read and write."""
        try:
            found = (self.folder / "reach").read()
        except FileNotFoundError:
            found = b""
        if found != self.mark.encode():
            raise RunError(f"{self.folder}: is not the folder that the command writes to")
        own = self.folder / f"reach-{secrets.token_hex(8)}"
        own.write(b"")
        own.remove_file()
        try:
            now = self.source.now()
        except FileNotFoundError:
            raise RunError(f"{self.source.place}: there is no such file") from None
        if now.size != self.source.size or (self.source.place.is_local and now != self.source):
            raise RunError(f"{self.source.place}: is another file than the command has")

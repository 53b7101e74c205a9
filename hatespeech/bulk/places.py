"""Where a run reads and writes: files, folders, globs, and every URL that fsspec can open."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar, Final, Self, cast
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from typing_extensions import override

from hatespeech.bulk import RunError
from hatespeech.formats.names import INPUT_FORMATS, PACKED, Format
from hatespeech.formats.packing_codecs import unpacked
from hatespeech.urls import shown_url

PARTIAL: Final = ".partial"
RECEIPT: Final = ".run.json"

# What linking a file raises on a file system that has no links, such as FAT or some network drives.
WITHOUT_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)

# The names that file systems give to a file's version. The first one present detects a change.
VERSIONS: Final = (
    "ETag",
    "etag",
    "mtime",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "created",
)
# The signs of a glob; in a URL of the web, a ? begins the query.
GLOBS: Final = {False: "*?[", True: "*["}
WEB: Final = ("http://", "https://")
# A URL that can be sent as it is. Of others the client escapes what it must; then it also resolves
# escapes such as %2F in a query, and a server that signed the query as it was refuses it.
ESCAPED: Final = re.compile(r"(?:[A-Za-z0-9!#$&'()*+,./:;=?@_~-]|%[0-9A-Fa-f]{2})+")
# What fsspec reads out of another URL: after these, :: joins two URLs.
WRAPPERS: Final = (
    *("blockcache", "cached", "dir", "filecache"),
    *("libarchive", "reference", "simplecache", "tar", "zip"),
)
# What to do with files that are often given and not read.
ADVICE: Final = {".xls": "save it as .xlsx", ".zip": "unpack it first"}
COPIED_BYTES: Final = 1024 * 1024
# What Hive and Spark write for a null in the name of a folder.
NULL_KEY: Final = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Place:
    """A path in some file system."""

    fs: Any
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse a path or URL; raise :class:`RunError` if fsspec can't open it."""
        try:
            fs, path = _split_url(url)
        except (ImportError, ValueError) as exc:
            raise RunError(f"{shown_url(url)}: {str(exc).splitlines()[0]}") from None
        except OSError as exc:  # FTP and SFTP connect here
            raise RunError(f"{shown_url(url)}: {exc.strerror or type(exc).__name__}") from None
        return cls(fs, path.rstrip("/") or "/")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where a rename is atomic and a lock holds."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def is_web(self) -> bool:
        """Whether it is an HTTP URL, which may end in a query; a signature there is a secret."""
        return self.path.startswith(WEB)

    @property
    def plain_path(self) -> str:
        """The path without a URL's query, and with its escapes resolved."""
        return unquote(urlsplit(self.path).path) if self.is_web else self.path

    @property
    def name(self) -> str:
        """The last part of the plain path."""
        return PurePosixPath(self.plain_path).name

    def __truediv__(self, name: str) -> Place:
        return Place(self.fs, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else shown_url(self.fs.unstrip_protocol(self.path))

    def beside(self, suffix: str) -> Place:
        """Return the place whose name is this name plus a suffix."""
        return Place(self.fs, self.path + suffix)

    def exists(self) -> bool:
        """Say whether this is a file, or a folder that is not empty."""
        if not self.fs.exists(self.path):
            return False
        return not self.fs.isdir(self.path) or bool(self.fs.ls(self.path, detail=False))

    def make_folder(self) -> None:
        """Make the folder and its parents; do nothing if it exists."""
        self.fs.makedirs(self.path, exist_ok=True)

    def names(self) -> list[str]:
        """Return the names in the folder, none if there is no folder."""
        if not self.fs.isdir(self.path):
            return []
        self.fs.invalidate_cache(self.path)
        return sorted(PurePosixPath(path).name for path in self.fs.ls(self.path, detail=False))

    def read(self) -> bytes:
        """Return the whole file; raise :class:`FileNotFoundError`."""
        return cast(bytes, self.fs.cat_file(self.path))

    def write(self, data: bytes, *, alone: bool = False) -> None:
        """Write a small file in one step: a reader sees all of it or nothing.

        ``alone`` says that no other process writes this file now. Then a process that is killed
        leaves a temporary file that the next one uses again.
        """
        if not self.is_local:  # object stores show an object only when it is complete
            self.fs.pipe_file(self.path, data)
            return
        temporary = f"{self.path}.tmp" if alone else f"{self.path}.{secrets.token_hex(4)}.tmp"
        with self.named_in_errors():
            try:
                with open(temporary, "wb") as file:  # noqa: PTH123 - a path of fsspec's
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())  # or a power cut may leave the name without the data
                os.replace(temporary, self.path)  # noqa: PTH105 - a path of fsspec's
            except OSError:
                if self.fs.exists(temporary):
                    self.fs.rm_file(temporary)
                raise

    @contextlib.contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Make errors on an open file, such as a full disk, name the file."""
        try:
            yield
        except OSError as exc:
            if exc.filename is not None or exc.errno is None:
                raise
            raise OSError(exc.errno, os.strerror(exc.errno), self.path) from exc

    def sync(self) -> None:
        """Flush a local file to disk, so that it survives a power cut."""
        if self.is_local:
            with open(self.path, "rb") as file:  # noqa: PTH123 - a path of fsspec's
                os.fsync(file.fileno())

    def move(self, target: Place) -> None:
        """Rename a file or folder: in one step on this machine, file by file in an object store.

        Raises :class:`FileExistsError` if there is something at the target on this machine, unless
        it is an empty folder, or this very file after a move that was interrupted. An object store
        has no such step: there it replaces files.
        """
        if self.is_local:
            _move_local(self.path, target.path)
            return
        if not self.fs.isdir(self.path):
            self._move_file(self.path, target.path)
            return
        for path in sorted(self.fs.find(self.path)):
            self._move_file(path, target.path + path[len(self.path) :])

    def replace(self, target: Place) -> None:
        """Rename this file, in place of what has that name; make the folders above it."""
        Place(target.fs, target.path.rpartition("/")[0]).make_folder()
        if self.is_local:
            os.replace(self.path, target.path)  # noqa: PTH105 - a path of fsspec's
        else:
            self._move_file(self.path, target.path)

    def _move_file(self, path: str, target: str) -> None:
        try:
            self.fs.cp_file(path, target)  # fs.mv would read [ ] * ? in names as globs
        except NotImplementedError:  # SFTP, which can rename but not copy
            self.fs.mv(path, target)
        else:
            self.fs.rm_file(path)

    def remove_file(self) -> None:
        """Remove the file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path)

    def remove(self) -> None:
        """Remove the folder and everything in it, if it exists."""
        if self.is_local:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.path)
            return
        if not self.fs.exists(self.path):
            return
        # One by one: fs.rm would read [ ] * ? in names as globs and remove other files.
        found = self.fs.find(self.path, withdirs=True, detail=True)
        folders = {path for path, info in found.items() if info.get("type") == "directory"}
        for path in found.keys() - folders:
            self.fs.rm_file(path)
        for path in sorted({*folders, self.path}, reverse=True):  # the innermost first
            # On object stores a folder is only a name prefix; it disappears with its last file.
            with contextlib.suppress(OSError, NotImplementedError):
                self.fs.rmdir(path)


def _split_url(url: str) -> tuple[Any, str]:
    """Return the file system and the path in it.

    For fsspec ``::`` always joins two URLs. Here it does so only where it can mean that: otherwise
    it is a part of a name.
    """
    first, *others = url.split("::")
    protocol, found, _ = first.rpartition("://")
    joined = (protocol or first) in WRAPPERS or any("://" in other for other in others)
    if not others or (joined and not os.path.lexists(url)):
        sent_as_it_is = {"encoded": True} if url.startswith(WEB) and ESCAPED.fullmatch(url) else {}
        fs, path = fsspec.url_to_fs(url, **sent_as_it_is)
        return fs, path
    kind = fsspec.get_filesystem_class(protocol if found else "file")
    return kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)


def _move_local(path: str, target: str) -> None:
    """Rename without replacing anything but an empty folder."""
    source, other = Path(path), Path(target)
    if source.is_dir():
        try:
            source.rename(other)
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from exc
            raise
        return
    try:
        other.hardlink_to(source)  # fails if there is anything; a rename would replace it
    except FileExistsError:
        if not other.samefile(source):
            raise
    except OSError as exc:
        if exc.errno not in WITHOUT_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from exc
        source.rename(other)
        return
    source.unlink()


@dataclass(frozen=True)
class Input:
    """One file to score."""

    place: Place
    name: str  # path below IN, and below OUT if that is a folder
    format: Format
    size: int | None  # bytes
    version: str  # changes whenever the file does
    # What the names of its folders say of its rows, as in lang=de/; part of its name already.
    keys: Mapping[str, str | None] = field(default_factory=dict, compare=False)
    shows_names: ClassVar[bool] = True

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """Return the raw file and its decompressed content, which are one if it is uncompressed."""
        raw = self._open_web() if self.place.is_web else self._open()
        return raw, unpacked(raw, self.format.compression)

    def _open(self, **how: Any) -> BinaryIO:
        file = cast(BinaryIO, self.place.fs.open(self.place.path, "rb", **how))
        return cast(BinaryIO, _WebFile(file, self)) if self.place.is_web else file

    def _open_web(self) -> BinaryIO:
        """Open a URL as a stream: a server need not know ranges of bytes, as fsspec expects.

        A format that is read here and there needs them, or a copy.
        """
        if self.format.kind not in PACKED:
            return self._open(block_size=0)
        if self.place.fs.info(self.place.path).get("partial"):  # the server says that it does
            return self._open()
        with tempfile.NamedTemporaryFile(prefix="hatespeech-") as copy:
            with self._open(block_size=0) as stream:
                shutil.copyfileobj(stream, copy, COPIED_BYTES)
            copy.flush()
            return cast(BinaryIO, pa.OSFile(copy.name))  # which outlives the name

    def error(self, what: str) -> RunError:
        """Return an error that names this file."""
        return RunError(f"{self}: {what}")

    too_large = error

    def option(self, name: str) -> str:
        """Return what the caller gives to choose the column with the texts, or the prefix."""
        return f"--{name}"

    @property
    def local_path(self) -> str | None:
        """Where the file is on this machine."""
        return self.place.path if self.place.is_local else None

    def __str__(self) -> str:
        return str(self.place)

    def now(self) -> Input:
        """Return the same file as it is now; raise :class:`FileNotFoundError`.

        On some stores the version of an unchanged file differs from that in a list of files.
        """
        self.place.fs.invalidate_cache()
        info = self.place.fs.info(self.place.path)
        return replace(self, size=info.get("size"), version=_version(info))


class _WebFile(io.RawIOBase):
    """A file of a web server, whose errors name it; the client's own are of many types."""

    def __init__(self, file: BinaryIO, source: Input) -> None:
        self._file = file
        self._source = source

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return self._file.seekable()

    @override
    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except Exception as exc:  # the client's message may hold the query
            broke = f"the server stopped sending it ({type(exc).__name__})"
            raise self._source.error(broke) from None
        buffer[: len(data)] = data
        return len(data)

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._file.tell()

    @override
    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class Found:
    """The files that IN names."""

    inputs: list[Input]  # sorted by path
    many: bool  # IN is a folder or a glob, even if it holds only one file
    skipped: list[str]  # names of other formats


def find_inputs(url: str, out: Place | None = None, form: Format | None = None) -> Found:
    """Return the files that a path, folder, glob or URL names.

    ``form`` is the format of all of them, whatever their names say. Hidden files, files below
    ``out`` and those of unfinished runs are left out without a note. Raises :class:`RunError` if no
    file is left, or if IN is one file of an unknown format.
    """
    place, given = Place.of(url), shown_url(url)
    fs = place.fs
    fs.invalidate_cache()
    if fs.isfile(place.path):
        keys = _keys_of(place, _folders_that_say(place.plain_path))
        return Found([_input(place, place.name, fs.info(place.path), form, keys)], False, [])
    root, found = _listed(place, given)
    inputs = []
    skipped = []
    for path in sorted(found):
        name = path[len(root) :].lstrip("/")
        folders = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "_")) for part in folders)
        ours = out is not None and f"{path}/".startswith(f"{out.path}/")
        unfinished = any(part.endswith(PARTIAL) for part in folders)
        if hidden or ours or unfinished or name.endswith(RECEIPT):
            continue
        if form is None and Format.of(name) is None:
            skipped.append(name)
            continue
        # A listing describes the link, not the file that it leads to.
        info = fs.info(path) if place.is_local else found[path]
        if place.is_local and not fs.isfile(path):
            raise not_a_file(Place(fs, path))
        file = Place(fs, path)
        keys = _keys_of(file, [*_folders_that_say(f"{root}/{folders[-1]}"), *folders[:-1]])
        inputs.append(_input(file, name, info, form, keys))
    if not inputs:
        raise RunError(f"{given}: holds no file whose name ends in {INPUT_FORMATS}")
    return Found(inputs, True, skipped)


def _listed(place: Place, given: str) -> tuple[str, dict[str, Any]]:
    """Return the folder above the files of a folder or a glob, and what is known of each by path.

    Raises :class:`RunError`, which shows what was ``given``, if it is neither.
    """
    fs = place.fs
    if place.is_web and (answer := _answer(place)) is not None:
        raise RunError(f"{place}: {answer}")
    if fs.isdir(place.path):
        return place.path, fs.find(place.path, detail=True)
    if sign := re.search(f"[{re.escape(GLOBS[place.is_web])}]", place.path):
        found = fs.glob(place.path, detail=True).items()
        # A symbolic link is neither a file nor a folder.
        files = {path: info for path, info in found if info["type"] != "directory"}
        return place.path[: sign.start()].rpartition("/")[0], files
    if fs.exists(place.path):
        raise not_a_file(place)
    raise RunError(f"{given}: there is no such file or folder")


def total_bytes(inputs: Sequence[Input]) -> int | None:
    """Return the size of all files together, ``None`` if that of one is not known."""
    sizes = [each.size for each in inputs if each.size is not None]
    return sum(sizes) if len(sizes) == len(inputs) else None


def not_a_file(place: Place) -> RunError:
    """Return the error for an input that can be read only once."""
    return RunError(
        f"{place}: is a pipe, a device or a socket; a run reads its input more than once, so write "
        "it to a file first, or give - as IN to read standard input"
    )


def _answer(place: Place) -> str | None:
    """Return what is wrong with a URL, ``None`` if the server has something there."""
    try:
        place.fs.info(place.path)
    except Exception as exc:  # whatever the client raises; its message may hold the query
        status = getattr(exc.__cause__ or exc, "status", None)
        if any(sign in place.path for sign in GLOBS[True]):
            return None
        if status in (401, 403):
            return f"HTTP {status}: is its signature wrong, or too old?"
        return "can't be reached" if status is None else f"HTTP {status}"
    return None


def _input(
    place: Place,
    name: str,
    info: Mapping[str, Any],
    form: Format | None,
    keys: Mapping[str, str | None],
) -> Input:
    form = form or Format.of(name)
    if form is None:
        ending = PurePosixPath(name).suffix.lower()
        advice = ADVICE.get(ending, "--input-format says it for any name")
        raise RunError(f"{place}: its name must end in {INPUT_FORMATS}; {advice}")
    return Input(place, name, form, info.get("size"), _version(info), keys)


def _version(info: Mapping[str, Any]) -> str:
    """Return what changes whenever the file does."""
    return next((str(info[key]) for key in VERSIONS if info.get(key) is not None), "")


def _folders_that_say(path: str) -> list[str]:
    """Return the folders right above a file, as far as their names are of the form key=value."""
    folders: list[str] = []
    for part in reversed(PurePosixPath(path).parts[:-1]):
        if "=" not in part.strip("="):
            break
        folders.insert(0, part)
    return folders


def _keys_of(file: Place, folders: Sequence[str]) -> dict[str, str | None]:
    """Return what folders named key=value say; Hive and Spark escape signs as URLs do."""
    found: dict[str, str | None] = {}
    for folder in folders:
        if "=" not in folder.strip("="):
            continue
        key, _, value = folder.partition("=")
        key = unquote(key)
        if key in found:
            raise RunError(f"{file}: is in two folders named {key}=")
        found[key] = None if value == NULL_KEY else unquote(value)
    return found

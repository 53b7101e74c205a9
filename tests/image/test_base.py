"""Where the check of the image gets its base from: this machine's own package sources."""

from __future__ import annotations

import pytest

from tests.support.image.base import AptSource, NotPossibleError, find_apt_source

DEB822 = """\
Types: deb
# http://snapshot.example/archive
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/some.gpg

Types: deb
URIs: http://deb.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
# deb http://comment.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb [arch=amd64 signed-by=/a.gpg] http://third.example/apt bookworm stable
deb [arch=amd64 signed-by=/a.gpg] https://deb.example/debian/ bookworm main universe # ours
"""


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        (
            "debian.sources",
            DEB822,
            AptSource("http://deb.example/debian", "bookworm", ("main",)),
        ),
        (
            "sources.list",
            ONE_LINE,
            AptSource("https://deb.example/debian/", "bookworm", ("main", "universe")),
        ),
    ],
)
def test_the_machines_own_source_is_found_in_either_form(
    name: str, text: str, source: AptSource
) -> None:
    files = [("other.list", "deb http://other.example/apt stable main\n"), (name, text)]
    assert find_apt_source(files, "bookworm") == source


@pytest.mark.parametrize(
    "text",
    [
        DEB822.replace("Components: main", "Components: contrib"),
        DEB822.replace("Types: deb\n", "Types: deb-src\n"),
        f"Enabled: no\n{DEB822}",
        DEB822.replace("bookworm", "trixie"),
        DEB822.replace("http:", "mirror+file:"),
    ],
    ids=["component", "type", "disabled", "suite", "scheme"],
)
def test_a_source_of_something_else_is_none(text: str) -> None:
    with pytest.raises(NotPossibleError, match="no source for bookworm main"):
        find_apt_source([("debian.sources", text)], "bookworm")

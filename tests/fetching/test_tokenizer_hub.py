"""The tokenizer's files from a hub, in the hub's URL form, on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub.constants
import pytest
from tokenizers import Tokenizer

from hatespeech.fetching import FetchError
from hatespeech.fetching.tokenizer import build_tokenizer, fetch_tokenizer
from tests.support.small_tokenizer import train_tokenizer
from tests.support.stand_ins.file_server import Answer, FileServer

REPOSITORY = "vinai/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = f"/api/models/{REPOSITORY}/revision/main"
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(scope="module")
def older_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = train_tokenizer(tmp_path_factory.mktemp("tokenizer"), ["a b c"], vocab_size=300)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclass
class Hub:
    """A hub, the folder files go to, and what was told meanwhile."""

    server: FileServer
    folder: Path
    notes: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def serve(self, files: dict[str, bytes]) -> None:
        self.server.serve_hub(REPOSITORY, "main", COMMIT, files)

    def fetch(self, repository: str = REPOSITORY, revision: str = "main") -> str:
        return fetch_tokenizer(
            repository, revision, self.folder, timeout=5, retries=2, notify=self.notes.append
        )

    def fetched(self) -> list[str]:
        found = (r.path.rpartition("/")[2] for r in self.server.requests if "/resolve/" in r.path)
        return sorted(set(found))


def move_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Do what HF_ENDPOINT does: the library reads it at import, which here was long ago."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.fixture
def hub(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(server, tmp_path / "files")
    move_hub(monkeypatch, f"http://{server.address}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", found.waits.append)
    return found


def test_only_the_older_files_are_fetched_where_there_is_no_tokenizer_json(
    hub: Hub, older_files: dict[str, bytes]
) -> None:
    hub.serve(older_files | {"pytorch_model.bin": b"large", "config.json": b"{}"})
    assert hub.fetch() == COMMIT
    assert hub.fetched() == ["merges.txt", "tokenizer_config.json", "vocab.json"]
    assert build_tokenizer(hub.folder).get_vocab_size() == 263


def complete(older_files: dict[str, bytes], folder: Path) -> Tokenizer:
    for name, content in older_files.items():
        (folder / name).write_bytes(content)
    return build_tokenizer(folder)


def test_only_tokenizer_json_is_fetched_where_it_is_complete(
    hub: Hub, older_files: dict[str, bytes], tmp_path: Path
) -> None:
    tokenizer = complete(older_files, tmp_path)
    hub.serve(older_files | {"tokenizer.json": tokenizer.to_str().encode()})
    hub.fetch()
    assert hub.fetched() == ["tokenizer.json"]


def test_older_files_are_fetched_too_where_tokenizer_json_does_not_wrap(
    hub: Hub, older_files: dict[str, bytes], tmp_path: Path
) -> None:
    tokenizer = complete(older_files, tmp_path)
    tokenizer.post_processor = None
    hub.serve(older_files | {"tokenizer.json": tokenizer.to_str().encode()})
    hub.fetch()
    assert hub.fetched() == [
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    assert len(build_tokenizer(hub.folder).encode("").ids) == 2


def test_files_are_those_of_the_commit_that_the_revision_was(
    hub: Hub, older_files: dict[str, bytes]
) -> None:
    hub.serve(older_files)
    hub.fetch(revision=COMMIT)
    hub.fetch()
    paths = [r.path for r in hub.server.requests if "/resolve/" in r.path]
    assert paths
    assert all(path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/") for path in paths)


def test_token_is_sent_to_the_hub(hub: Hub, older_files: dict[str, bytes]) -> None:
    hub.serve(older_files)
    hub.fetch()
    assert {r.headers["authorization"] for r in hub.server.requests} == {f"Bearer {TOKEN}"}


def test_hub_that_stumbles_is_tried_again(hub: Hub, older_files: dict[str, bytes]) -> None:
    hub.serve(older_files)
    listing = hub.server.content(API)
    json = Answer(headers={"Content-Type": "application/json"})
    hub.server.serve(API, listing, Answer(status=500), json)
    path = f"/{REPOSITORY}/resolve/{COMMIT}/vocab.json"
    good = Answer(etag='"v"', headers={"X-Repo-Commit": COMMIT})
    hub.server.serve(path, older_files["vocab.json"], Answer(status=502), good)
    hub.fetch()
    again = "trying again in 0.5 s"
    assert hub.notes == [
        f"{REPOSITORY} (main): the hub answered 500; {again}",
        f"{REPOSITORY} (main): the hub answered 502; {again}",
    ]
    assert (hub.folder / "vocab.json").read_bytes() == older_files["vocab.json"]


@pytest.mark.parametrize(
    ("answer", "said", "tries"),
    [
        (Answer(status=500), "the hub answered 500", 3),
        (Answer(status=429), "the hub answered 429", 3),
        (Answer(status=400), "the hub answered 400", 1),
        (
            Answer(status=404, headers={"X-Error-Code": "RepoNotFound"}),
            "no such repository, or a private one that HF_TOKEN cannot see",
            1,
        ),
        (
            Answer(status=404, headers={"X-Error-Code": "RevisionNotFound"}),
            "no such revision",
            1,
        ),
        (
            Answer(status=403, headers={"X-Error-Code": "GatedRepo"}),
            "access is restricted; set HF_TOKEN to a token that has access",
            1,
        ),
    ],
)
def test_hub_that_refuses_is_an_error_in_one_line_without_the_token(
    hub: Hub, answer: Answer, said: str, tries: int
) -> None:
    hub.server.serve(API, b"{}", answer)
    with pytest.raises(FetchError) as caught:
        hub.fetch()
    assert str(caught.value) == f"{REPOSITORY} (main): {said}"
    assert TOKEN not in str(hub.notes)
    assert len(hub.server.seen(API)) == tries


def test_hub_that_lists_files_and_does_not_give_them_is_an_error(
    hub: Hub, older_files: dict[str, bytes]
) -> None:
    hub.serve(older_files)
    hub.server.serve(f"/{REPOSITORY}/resolve/{COMMIT}/vocab.json", b"", Answer(status=500))
    with pytest.raises(FetchError, match="the hub cannot be reached"):
        hub.fetch()


def test_hub_that_is_not_there_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    move_hub(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(FetchError, match="the hub cannot be reached"):
        hub.fetch()
    assert hub.waits == [0.5, 1.0]


def test_name_that_no_repository_can_have_is_an_error_in_one_line(hub: Hub) -> None:
    with pytest.raises(FetchError) as caught:
        hub.fetch("bad--name..git")
    assert "\n" not in str(caught.value)
    assert hub.server.requests == []

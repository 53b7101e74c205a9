"""examples/http_client.mjs scores, waits where it is told to, and says why it gave up."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.paths import ROOT
from tests.support.http_client import SECONDS, TOKEN
from tests.support.local_server import LocalServer, local_server

pytestmark = pytest.mark.slow

CLIENT: Final = ROOT / "examples" / "http_client.mjs"


def node(arguments: list[str], texts: str = "", **environment: str) -> tuple[int, str, str]:
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs Node.js 20")
    done = subprocess.run(
        [program, *arguments],
        input=texts,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS * 2,
    )
    return done.returncode, done.stdout, done.stderr


def asked(server: LocalServer, script: str, url: str | None = None) -> Any:
    """Run a script that has a ``scorer``; return what it prints as JSON."""
    code, out, err = node(
        [
            "--input-type=module",
            "-e",
            f"import {{ Scorer }} from {json.dumps(str(CLIENT))};"
            f"const scorer = new Scorer({json.dumps(url or server.url)}, process.env.TOKEN);"
            f"console.log(JSON.stringify(await (async () => {{ {script} }})()));",
        ],
        TOKEN=TOKEN,
    )
    assert code == 0, err
    return json.loads(out)


def test_scores_each_line_of_its_input(small_checkpoint: Path, tmp_path: Path) -> None:
    with local_server(tmp_path, small_checkpoint) as server:
        server.ready()
        texts = [f"text number {n} with 👋 and \u2028 in it" for n in range(250)]
        lines = "\n".join(texts) + "\n\n"
        code, out, err = node([str(CLIENT), server.url], lines, BEARER_TOKEN=TOKEN)
        assert (code, err) == (0, "")
        items = [json.loads(line) for line in out.split("\n") if line]
        assert [item["text"] for item in items] == texts
        assert all(0 < item["hate"] < 1 for item in items)


def test_waits_until_the_model_is_loaded_and_the_rate_allows(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    """It is called before the server is ready, and for more requests than the limit allows."""
    with local_server(tmp_path, small_checkpoint, {"RATE_LIMIT": "4/5 seconds"}) as server:
        items = asked(server, "return scorer.score(Array(600).fill('hello'), { robust: true });")
    assert len(items) == 600


def test_a_refusal_is_an_error_with_its_type(small_checkpoint: Path, tmp_path: Path) -> None:
    catch = "try { await %s; } catch (e) { return [e.name, e.status, e.type, e.message]; }"
    with local_server(tmp_path, small_checkpoint) as server:
        server.ready()
        name, status, kind, message = asked(server, catch % "scorer.score(['a'], { wrong: 1 })")
        assert (name, status, kind) == ("ScoringError", 422, "validation")
        assert message == "'wrong': is not a known field"
        scorer = f"new scorer.constructor({json.dumps(server.url)}, 'wrong').score(['a'])"
        assert asked(server, catch % scorer)[1:3] == [401, "unauthorized"]
        mixed = asked(server, "return scorer.score(['fine', '']);")
        assert "error" not in mixed[0]
        assert mixed[1]["error"].startswith("validation: ")

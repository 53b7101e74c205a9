"""The clients in examples/ and the commands of docs/singularitynet.md do what they say."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from hatespeech.engine.predictor import Predictor
from hatespeech.labels import FLAGS
from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.checkpoints import SENTENCES, THRESHOLDS
from tests.support.ports import free_port, listens
from tests.support.processes.worker import clean_environment, wait_until
from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, KEY, RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import Fault
from tests.support.stand_ins.runpod.worked import daemon_config, worked_endpoint
from tests.support.stand_ins.snet_daemon import SnetDaemon

pytestmark = pytest.mark.slow

GUIDE: Final = (ROOT / "docs" / "singularitynet.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def endpoint(small_classifier: Predictor) -> Iterator[RunpodEndpoint]:
    with worked_endpoint(small_classifier, max_texts_per_request=8) as cloud:
        yield cloud


@pytest.fixture
def cloud(endpoint: RunpodEndpoint) -> Iterator[RunpodEndpoint]:
    """The emulation, in its normal mode again after each test."""
    yield endpoint
    endpoint.forget()


@pytest.fixture(scope="module")
def daemon(
    endpoint: RunpodEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SnetDaemon]:
    config = daemon_config(tmp_path_factory.mktemp("daemon"), endpoint, "--wait-seconds", "1")
    with SnetDaemon(config) as running:
        yield running


def run(
    name: str, *arguments: str, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments],
        cwd=home,
        env=clean_environment(home, None) | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def snet(daemon: SnetDaemon, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("snet_client.py", "--endpoint", daemon.address, *arguments, home=home)


def runpod(cloud: RunpodEndpoint, home: Path, *arguments: str, key: str = KEY) -> Any:
    return run(
        "runpod_client.py",
        *arguments,
        *("--endpoint-id", ENDPOINT_ID),
        home=home,
        RUNPOD_API_KEY=key,
        RUNPOD_ENDPOINT_BASE_URL=cloud.base_url,
    )


def test_snet_client_tells_an_endpoint_of_the_metadata_from_an_address(tmp_path: Path) -> None:
    ran = run(
        "snet_client.py", "--endpoint", "https://a.example:8088", "good morning", home=tmp_path
    )
    assert ran.returncode == 2
    assert "--endpoint: must be HOST:PORT, without https://; add --tls" in ran.stderr


def test_snet_client_prints_a_table(
    daemon: SnetDaemon, tmp_path: Path, small_classifier: Predictor
) -> None:
    ran = snet(
        daemon,
        tmp_path,
        "good morning 🌞",
        "",
        "you are scum",
        "--threshold",
        "hate=0",
        "--threshold",
        "toxic=0",
    )
    assert ran.returncode == 0, ran.stderr
    head, first, empty, last, foot = ran.stdout.splitlines()
    assert head.split() == ["hate", "abusing", "neutral", "spam", "toxic", "label", "text"]
    (score, other) = small_classifier.score(["good morning 🌞", "you are scum"])
    for line, known in ((first, score), (last, other)):
        *shown, toxic = (float(number) for number in line.split()[:5])
        assert shown == pytest.approx(list(getattr(known, "scores", [])), abs=1e-4)
        assert toxic == pytest.approx(shown[0] + shown[1], abs=1.6e-4)
        assert "[flagged: hate, toxic]" in line
    assert empty.split()[:5] == ["-"] * 5
    assert "[validation: prompts[1]: must not be empty]" in empty
    assert small_classifier.model_id in foot


def test_snet_client_flags_by_recommended_thresholds(
    daemon: SnetDaemon, tmp_path: Path, small_classifier: Predictor
) -> None:
    texts = ["dog", "album sleep", SENTENCES[4], SENTENCES[0]]
    scores = [getattr(known, "scores", ()) for known in small_classifier.score(texts)]
    marked = {}
    for name in ("balanced", "strict"):
        ran = snet(daemon, tmp_path, *texts, "--thresholds", name)
        assert ran.returncode == 0, ran.stderr
        least: Any = THRESHOLDS[name]
        lines = ran.stdout.splitlines()[1:-1]
        marked[name] = ["".join(re.findall(r"\[flagged: (.+)\]", line)) for line in lines]
        assert marked[name] == [
            ", ".join(
                flag
                for flag, score in zip(FLAGS, [*known, sum(known[:2])], strict=True)
                if score >= least.get(flag, 2)
            )
            for known in scores
        ]
    assert marked["balanced"] != marked["strict"] != [""] * len(texts)


def test_snet_client_takes_numbers_or_a_name(tmp_path: Path) -> None:
    for more, said in (
        (("--thresholds", "lenient"), "argument --thresholds: invalid choice: 'lenient'"),
        (("--thresholds", "strict", "--threshold", "hate=0.5"), "not allowed with argument"),
    ):
        ran = run("snet_client.py", "a", "--endpoint", "127.0.0.1:1", *more, home=tmp_path)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert said in ran.stderr.splitlines()[-1]


def test_snet_client_explains(daemon: SnetDaemon, tmp_path: Path) -> None:
    ran = snet(daemon, tmp_path, "you are scum today", "--explain")
    assert ran.returncode == 0, ran.stderr
    words = [line for line in ran.stdout.splitlines() if " by " in line]
    assert len(words) == 3
    influences = [abs(float(line.split()[0])) for line in words]
    assert influences == sorted(influences, reverse=True)


def test_snet_client_says_why_on_one_line(
    cloud: RunpodEndpoint, daemon: SnetDaemon, tmp_path: Path
) -> None:
    failed = snet(daemon, tmp_path, "")
    cloud.workers = False
    queued = snet(daemon, tmp_path, "good morning")
    cloud.always["runsync"] = Fault(401)
    refused = snet(daemon, tmp_path, "good morning")
    for ran, reason in (
        (failed, "error: FAILED: validation: prompt: must not be empty (job sync-"),
        (queued, "error: IN_QUEUE: no result yet (job sync-"),
        (refused, "error: upstream http status 401"),
    ):
        (line,) = ran.stderr.splitlines()
        assert line.startswith(reason)
        assert (ran.returncode, ran.stdout) == (1, "")


def test_runpod_client_waits_for_one_call(
    cloud: RunpodEndpoint, tmp_path: Path, small_classifier: Predictor
) -> None:
    cloud.requests.clear()
    ran = runpod(cloud, tmp_path, "sync", "good morning", "", "صباح الخير")
    assert ran.returncode == 0, ran.stderr
    head, first, empty, last = ran.stdout.splitlines()
    assert head.split()[:5] == ["hate", "abusing", "neutral", "spam", "toxic"]
    (score, *_) = small_classifier.score(["good morning"])
    shown = [float(number) for number in first.split()[:4]]
    assert shown == pytest.approx(list(getattr(score, "scores", [])), abs=1e-4)
    assert "[validation: prompts[1]: must not be empty]" in empty
    assert last.endswith("صباح الخير")
    assert cloud.requests == [("POST", f"/v2/{ENDPOINT_ID}/runsync?wait=300000")]


def test_runpod_client_submits_and_asks(cloud: RunpodEndpoint, tmp_path: Path) -> None:
    cloud.requests.clear()
    ran = runpod(cloud, tmp_path, "async", "good morning")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[1].endswith("good morning")
    submit, *asked = cloud.requests
    assert submit == ("POST", f"/v2/{ENDPOINT_ID}/run")
    assert {(method, path.split("/")[3]) for method, path in asked} == {("GET", "status")}


def test_runpod_client_splits_a_file_into_jobs(cloud: RunpodEndpoint, tmp_path: Path) -> None:
    texts = [f"tweet number {n} 🚀" for n in range(7)]
    (tmp_path / "tweets.txt").write_text("\n\n".join(texts), encoding="utf-8")
    cloud.requests.clear()
    ran = runpod(cloud, tmp_path, "batch", "tweets.txt", "--job-size", "3")
    assert ran.returncode == 0, ran.stderr
    assert [line[line.index("tweet") :] for line in ran.stdout.splitlines()[1:]] == texts
    assert sum(method == "POST" for method, _ in cloud.requests) == 3
    assert ran.stderr.splitlines()[-1] == "job 3 of 3: 7 texts scored"


def test_runpod_client_says_why_on_one_line(cloud: RunpodEndpoint, tmp_path: Path) -> None:
    too_many = runpod(cloud, tmp_path, "async", *["a"] * 9)
    cloud.workers = False
    late = runpod(cloud, tmp_path, "async", "good morning", "--wait", "1")
    refused = runpod(cloud, tmp_path, "sync", "a", key="wrong")
    keyless = runpod(cloud, tmp_path, "sync", "a", key="")
    for ran, reason in (
        (too_many, "error: FAILED: too_large: prompts: holds 9 texts"),
        (late, "error: IN_QUEUE: no result in time, job "),
        (refused, "error: 401"),
        (keyless, "error: RUNPOD_API_KEY is not set"),
    ):
        (line,) = ran.stderr.splitlines()
        assert line.startswith(reason)
        assert (ran.returncode, ran.stdout) == (1, "")
    assert [job.status for job in cloud.jobs.values()][-1] == "CANCELLED"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "snet_client.py",
            ("--endpoint", "--explain", "--threshold ", "--thresholds ", "snet-sdk", "examples:"),
        ),
        ("runpod_client.py", ("sync", "async", "batch", "RUNPOD_ENDPOINT_BASE_URL", "examples:")),
    ],
)
def test_help_teaches(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    ran = run(name, "--help", home=tmp_path)
    assert ran.returncode == 0
    assert all(word in ran.stdout for word in words)


def block(mark: str) -> str:
    """Return the fenced block below a mark of the guide."""
    found = re.search(rf"<!-- check: {mark} -->\n```\w+\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_sdk_snippet_compiles_and_sends_what_the_proto_knows() -> None:
    code = block("compiles")
    compile(code, "docs/singularitynet.md", "exec")
    proto = (ROOT / "service.proto").read_text(encoding="utf-8")
    called = re.search(r'call_rpc\("(\w+)", "(\w+)", input=\{"(\w+)"', code)
    assert called is not None
    method, message, field = called.groups()
    for pattern in (rf"rpc {method}\({message}\)", rf"repeated string {field} ="):
        assert re.search(pattern, proto)


def masked(text: str) -> str:
    """Leave out what depends on the checkpoint and on the machine."""
    text = re.sub(r"\d\.\d{4}  (hate|abusing|neutral|spam) +", "N  L  ", text)
    return re.sub(r"\d\.\d{4}|model \S+|in \d+ ms", "N", text)


def test_transcript_of_the_guide_is_what_its_commands_print(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    for name in ("app.py", "hatespeech", "scripts", "examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    ports = {name: str(free_port()) for name in ("8000", "8088")}
    python = Path(sys.executable).parent
    environment = clean_environment(tmp_path, small_checkpoint)
    environment["PATH"] = f"{python}{os.pathsep}{environment['PATH']}"
    printed, background = "", []
    try:
        for line in block("transcript").splitlines():
            if not line.startswith("$ "):
                continue
            printed += f"{line}\n"
            command = re.sub(r"\b(8000|8088)\b", lambda found: ports[found[1]], line[2:])
            if command.endswith(" &"):
                with (tmp_path / "background").open("ab") as log:
                    process = subprocess.Popen(
                        ["bash", "-c", f"exec {command[:-2]}"],
                        cwd=tmp_path,
                        env=environment,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                background.append(process)
                port = ports["8000" if "app.py" in command else "8088"]
                wait_until(functools.partial(listens, int(port)), command, seconds=90)
            else:
                ran = subprocess.run(
                    ["bash", "-c", command],
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                assert ran.returncode == 0, ran.stderr
                printed += ran.stdout
    finally:
        for process in background:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
    assert masked(printed) == masked(block("transcript"))


def test_guide_explains_every_key_of_the_configuration() -> None:
    for key in json.loads((ROOT / "daemon_config.json").read_text()):
        assert f"`{key}`" in GUIDE


def test_guide_gives_the_limits_that_hold() -> None:
    limits = dict(re.findall(r"the worker, `(MAX_\w+)` \| (\d+) \|", GUIDE))
    fields = EngineSettings.model_fields
    assert {name: int(value) for name, value in limits.items()} == {
        name.upper(): fields[name].default
        for name in fields
        if name.startswith(("max_text", "max_request", "max_windows"))
    }


def test_metadata_template_is_for_this_service() -> None:
    metadata = json.loads((ROOT / "service_metadata.json").read_text())
    config = json.loads((ROOT / "daemon_config.json").read_text())
    assert (metadata["version"], metadata["encoding"]) == (1, "proto")
    assert metadata["service_type"] == "http"  # else the daemon proxies raw gRPC frames
    (group,) = metadata["groups"]
    assert group["group_name"] == config["daemon_group_name"]
    (price,) = group["pricing"]
    assert (price["price_model"], price["default"]) == ("fixed_price", True)
    assert isinstance(price["price_in_cogs"], int)
    assert len(metadata["service_description"]["short_description"]) <= 180
    open_values = [
        *(metadata["service_api_source"], metadata["mpe_address"], group["group_id"]),
        *(*group["endpoints"], *group["daemon_addresses"], metadata["service_description"]["url"]),
        *metadata["contributors"][0].values(),
    ]
    assert all(re.fullmatch(r"<[A-Z_]+(: .+)?>", value) for value in open_values)

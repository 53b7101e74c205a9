"""Builds the image on a small base, looks into its layers, and runs it: ``scripts/check-image``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import requests

from tests.paths import ROOT
from tests.support.image.base import (
    BASE,
    CommandError,
    NotPossibleError,
    copy_context,
    serve_wheels,
)
from tests.support.image.buildah import Buildah
from tests.support.image.compose import check_compose
from tests.support.image.docker import Docker, NoDockerError
from tests.support.image.engine import Container, Engine
from tests.support.image.hardening import Hardening
from tests.support.image.hardening import checks as hardening_checks
from tests.support.image.layers import check_layers, compressed_size, read_layer
from tests.support.ports import free_port
from tests.support.processes.worker import wait_until
from tests.support.small_tokenizer import train_tokenizer
from tests.support.stand_ins.file_server import FileServer
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint

GPU: Final = "localhost/hate-speech-detection:gpu"
CPU: Final = "localhost/hate-speech-detection:cpu"
CPU_ARGUMENTS: Final = {"FLAVOUR": "cpu", "CPU_BASE_IMAGE": BASE}
# The most that packages may take on disk, in bytes.
LARGEST: Final = 300 * 10**6
LARGEST_WITH_EXTRAS: Final = 500 * 10**6
PICKLE: Final = ROOT / "tests/data/checkpoints/tiny_eval_zip.pt"
PICKLE_PATH: Final = "/model_7"
REPOSITORY: Final = "someone/small-tokenizer"
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
MODEL_DIR: Final = "/app/checkpoints/bertweet-large"
ON_CPU: Final = {"DEVICE": "cpu", "DTYPE": "float32", "OMP_NUM_THREADS": "1"}
LABELS: Final = ("hate", "abusing", "neutral", "spam")

# What the work folder holds at its height, with room to spare.
ROOM: Final = 8 * 10**9

EPILOG: Final = """\
It takes some minutes, most of them for Debian's and Python's packages. The real base image, a GPU
and the published checkpoint have no part in it."""


class Sources:
    """The checkpoint and the model hub that the image is built from."""

    def __init__(self, files: FileServer, folder: Path) -> None:
        self.files = files
        corpus = [PICKLE.with_name("tiny_expected.json").read_text(encoding="utf-8")]
        tokenizer = train_tokenizer(folder / "tokenizer", corpus, vocab_size=600)
        hub = {path.name: path.read_bytes() for path in tokenizer.iterdir()}
        self.arguments = {
            "FLAVOUR": "gpu",  # buildah 1.28 takes no default for the name of a stage
            "BASE_IMAGE": BASE,
            "CHECKPOINT": files.serve(PICKLE_PATH, PICKLE.read_bytes()),
            "TOKENIZER": REPOSITORY,
            "HF_ENDPOINT": files.serve_hub(REPOSITORY, "main", COMMIT, hub),
        }

    def fetched(self) -> int:
        """Return how many bytes of the checkpoint were asked for so far."""
        return sum(request.sent for request in self.files.seen(PICKLE_PATH))


class Image:
    """A built image."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self.config: Mapping[str, Any] = engine.config(name)
        self.environment = dict(each.split("=", 1) for each in self.config["Env"])

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> Container:
        """Start a container of it."""
        return self.engine.start(self.name, *arguments, environment=environment, mounts=mounts)

    def healthcheck(self) -> Sequence[str]:
        """Return the health check's command, which needs no shell."""
        kind: str
        command: list[str]
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD", kind
        return command


def check_contents(image: Image, folder: Path, largest: int, *, compress: bool) -> str:
    """Look at configuration and layers; return the size of what the image adds to its base.

    ``largest`` is the most that its packages may take, in bytes. With ``compress`` it also says
    what a registry holds.
    """
    user, _, group = image.config["User"].partition(":")
    assert user.isdecimal(), "the user must be a number, for engines that refuse root"
    assert "0" not in (user, group), "runs as root"
    environment = image.environment
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert "org.opencontainers.image.title" in image.config["Labels"]
    pushed = folder / "layers"
    paths = image.engine.layers(image.name, pushed)
    all_layers = [read_layer(path) for path in paths]
    # The base is one layer.
    base, added = all_layers[:1], all_layers[1:]
    packed = ""
    if compress:
        total = sum(compressed_size(path) for path in paths[1:])
        packed = f"; {total / 1e6:,.0f} MB compressed"
    shutil.rmtree(pushed)
    check_layers(base, added, embedded="MODEL_DIR" not in environment)
    packages = sum(layer.packages for layer in added)
    assert packages <= largest, f"{packages / 1e6:,.0f} MB of packages"
    whole = sum(layer.size for layer in added)
    return f"{whole / 1e6:,.0f} MB without the base, {packages / 1e6:,.0f} of them packages{packed}"


def check_score(image: Image, folder: Path, model: str) -> str:
    """Score the image's own test_input.json, then one mounted over it; return the time it takes."""
    with image.start() as container:
        assert container.wait() == 0, container.stderr
        seconds = time.monotonic() - container.started
        reply = json.loads(container.stdout)
    assert abs(sum(reply[label] for label in LABELS) - 1) < 1e-4, reply
    assert reply["model"].startswith(f"{model}@"), reply["model"]
    mine = folder / f"{model}.json"
    mine.write_text(json.dumps({"input": {"prompts": ["good morning", ""]}}), encoding="utf-8")
    mine.chmod(0o644)
    with image.start(mounts={mine: "/app/test_input.json"}) as container:
        assert container.wait() == 0, container.stderr
        scored, refused = json.loads(container.stdout)["items"]
    assert scored["text"] == "good morning"
    assert refused["error"].startswith("validation: ")
    return f"{seconds:.1f} s from start to the end of the first score"


def check_torch(image: Image) -> str:
    """See that the worker's Python has the base's torch."""
    code = "import torch; print(torch.__version__, torch.__file__)"
    versions = []
    for python in ("/usr/bin/python3", "python3"):
        with image.start(python, "-c", code) as container:
            assert container.wait() == 0, container.stderr
            versions.append(container.stdout.strip())
    assert versions[0] == versions[1], versions
    assert "/opt/" not in versions[1], versions
    return versions[0]


def check_refusals(image: Image, folder: Path) -> str:
    """A folder that is missing, empty or damaged ends the worker; no other model steps in."""
    empty, damaged = folder / "empty", folder / "damaged"
    empty.mkdir()
    image.engine.copy_out(image.name, MODEL_DIR, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    said = []
    cases: list[tuple[dict[str, str], dict[Path, str]]] = [
        ({"MODEL_DIR": "/nowhere"}, {}),
        ({}, {empty: MODEL_DIR}),
        ({}, {damaged: MODEL_DIR}),
    ]
    for environment, mounts in cases:
        with image.start(environment=environment, mounts=mounts) as container:
            assert container.wait() == 1, container.stderr
            assert container.stdout == ""
            last = container.stderr.splitlines()[-1]
            assert last.startswith("error: "), container.stderr
            said.append(last.removeprefix("error: "))
    return "; ".join(said)


def check_queue(image: Image) -> str:
    """Work a queue; pass the health check; at SIGTERM answer what was taken, and end."""
    with RunpodEndpoint() as endpoint:
        environment = {**ON_CPU, **endpoint.environment(), "STOP_SECONDS": "600"}
        with image.start(environment=environment) as worker:
            ids = endpoint.submit({"prompt": "good morning"}, {"prompt": ""})
            wait_until(
                lambda: endpoint.all_answered(ids), "two answers", watch=worker.require_running
            )
            assert (endpoint.answer(ids[0]) or {})["output"]["text"] == "good morning"
            assert "validation" in (endpoint.answer(ids[1]) or {})["error"]
            health = worker.execute(image.healthcheck())
            assert health.returncode == 0, health.stderr
            assert f"{':'.join(map(str, worker.user_ids()))}" == image.config["User"]

            last = endpoint.submit(*[{"prompts": ["good morning"] * 1024}] * 4)
            wait_until(
                lambda: all(endpoint.jobs[job].pods for job in last),
                "jobs to be handed over",
                watch=worker.require_running,
            )
            before = len(endpoint.answered)
            worker.terminate()
            endpoint.drain()
            assert worker.wait() == 0, worker.stderr
        assert all("output" in (endpoint.answer(job) or {}) for job in last), "jobs were dropped"
        assert not endpoint.problems, endpoint.problems
    with image.start(*image.healthcheck()) as alone:
        assert alone.wait() == 1, "the health check passes without a worker"
    total = len(endpoint.answered)
    return f"{total} jobs answered, {total - before} of them after SIGTERM"


def check_server(image: Image, *, uploads: bool) -> str:
    """Serve HTTP; pass the health check once ready; score a file, or refuse it; end at SIGTERM."""
    port = free_port()
    token = "token-of-the-check"
    environment = {**ON_CPU, "PORT": str(port), "BEARER_TOKEN": token}
    with image.start("server", environment=environment) as server:
        wait_until(
            lambda: server.execute(image.healthcheck()).returncode == 0,
            "a healthy server",
            watch=server.require_running,
        )

        def post(path: str, **body: Any) -> requests.Response:
            headers = {"Authorization": f"Bearer {token}"}
            url = f"http://127.0.0.1:{port}{path}"
            return requests.post(url, headers=headers, timeout=60, **body)

        assert post("/score", json={"text": "good morning"}).json()["text"] == "good morning"
        reply = post("/score/file", files={"file": ("a.csv", b"text\ngood morning\n")})
        assert reply.status_code == (200 if uploads else 415), reply.text
        server.terminate()
        assert server.wait() == 0, server.stderr
    return f"ready, scored, a file {'scored' if uploads else 'refused'}, ended"


def check_rebuilds(engine: Engine, sources: Sources, context: Path) -> str:
    """Edits fetch nothing again: of the fronts nothing at all, of the rest not the checkpoint."""
    before = len(sources.files.requests)
    for file in ("app.py", "hatespeech/serving/settings.py", "hatespeech/worker/command.py"):
        append(context / file, "# an edit\n")
    engine.build(context, GPU, sources.arguments)
    assert len(sources.files.requests) == before, "an edit of the fronts fetches again"

    fetched = sources.fetched()
    append(context / "hatespeech/settings.py", "# an edit\n")
    engine.build(context, f"{GPU}-a", sources.arguments, target="checkpoint")
    assert len(sources.files.requests) > before, "an edit of the converter does not reach it"
    append(context / "requirements.lock", "# an edit\n")
    engine.build(context, f"{GPU}-b", sources.arguments, target="fetching")
    again = sources.fetched() - fetched
    assert again < 100, f"{again} more bytes of the checkpoint after other edits"
    return f"{again} byte of the checkpoint asked for again"


def append(path: Path, text: str) -> None:
    """Add to a file's end."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


Report = Callable[[str, Callable[[], str]], None]


def check_all(engine: Engine, folder: Path, report: Report, *, compress: bool) -> None:
    """Build, look, run."""
    with contextlib.ExitStack() as stack:
        sources = Sources(stack.enter_context(FileServer()), folder)
        wheels = stack.enter_context(serve_wheels(folder))
        context = copy_context(folder)
        # What lies about in a working copy and must not be sent along.
        (context / ".env").write_text("DEVICE=nonsense\n", encoding="utf-8")

        def base() -> str:
            engine.make_base(wheels)
            return BASE

        def build_gpu() -> str:
            engine.build(context, GPU, sources.arguments)
            assert sources.fetched() <= PICKLE.stat().st_size + 1, "the checkpoint came twice"
            return GPU

        def build_cpu() -> str:
            before = len(sources.files.requests)
            engine.build(context, CPU, {**CPU_ARGUMENTS, "EXTRAS": "postgres redis"})
            assert len(sources.files.requests) == before, "it fetched a checkpoint"
            return CPU

        report("base image", base)
        report("GPU flavour", build_gpu)
        gpu = Image(engine, GPU)
        assert gpu.environment["MODEL_DIR"] == MODEL_DIR

        def contents(image: Image, largest: int) -> str:
            return check_contents(image, folder, largest, compress=compress)

        report("contents", lambda: contents(gpu, LARGEST))
        report("torch", lambda: check_torch(gpu))
        report("test_input.json", lambda: check_score(gpu, folder, "bertweet-large"))
        report("bad checkpoints", lambda: check_refusals(gpu, folder))
        report("queue", lambda: check_queue(gpu))
        report("server", lambda: check_server(gpu, uploads=False))
        report("CPU flavour", build_cpu)
        cpu = Image(engine, CPU)
        report(
            "contents", lambda: check_contents(cpu, folder, LARGEST_WITH_EXTRAS, compress=compress)
        )
        report("test_input.json", lambda: check_score(cpu, folder, "mini"))
        report("server", lambda: check_server(cpu, uploads=True))
        if isinstance(engine, Docker):
            for name, check in hardening_checks(Hardening(engine, CPU, folder)):
                report(name, check)
            report("compose", lambda: check_compose(engine, context, CPU))
        report("rebuilds", lambda: check_rebuilds(engine, sources, context))


def choose_parent(given: Path | None) -> Path:
    """Return where to work: in memory if there is plenty, since nothing is to last."""
    memory = Path("/dev/shm")
    if given is None and memory.is_dir() and shutil.disk_usage(memory).free > 2 * ROOM:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        if int(fields["MemAvailable"].split()[0]) * 1024 > 1.5 * ROOM:
            return memory
    return given or Path(tempfile.gettempdir())


def choose_engine(folder: Path, wanted: str | None) -> Engine:
    """Return Docker where it runs, else buildah, and say why."""
    if wanted == "buildah":
        return Buildah(folder)
    try:
        return Docker(folder)
    except NoDockerError as exc:
        if wanted == "docker" or shutil.which("buildah") is None:
            raise NotPossibleError(str(exc)) from exc
        sys.stdout.write(f"check-image: {exc}; going on with buildah\n")
        return Buildah(folder)


def main() -> int:
    """Run the checks; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="check-image",
        description="Build the Dockerfile on a small Debian base and run what comes out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help=f"make the work folder ({ROOM / 1e9:.0f} GB) in here and not in memory or the "
        "temporary folder; it is removed at the end",
    )
    parser.add_argument(
        "--engine",
        choices=("docker", "buildah"),
        help="what builds and runs (default: docker where it starts, else buildah)",
    )
    parser.add_argument(
        "--compress",
        action="store_true",
        help="also say what the layers take in a registry, which takes half a minute more",
    )
    options = parser.parse_args()
    parent = choose_parent(options.work)
    if shutil.disk_usage(parent).free < ROOM:
        sys.stdout.write(f"check-image: not run: {parent} has no {ROOM / 1e9:.0f} GB free\n")
        return 0

    def report(name: str, check: Callable[[], str]) -> None:
        sys.stdout.write(f"check-image: {name} …")
        sys.stdout.flush()
        began = time.monotonic()
        outcome = check()
        sys.stdout.write(f" {outcome} ({time.monotonic() - began:.0f} s)\n")
        sys.stdout.flush()

    # Ended from outside, it cleans up as well.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory(prefix="check-image-", dir=parent) as name:
            engine = choose_engine(Path(name), options.engine)
            try:
                check_all(engine, Path(name), report, compress=options.compress)
            finally:
                engine.close()
    except NotPossibleError as exc:
        sys.stdout.write(f"check-image: not run: {exc}\n")
        return 0
    except (AssertionError, CommandError, OSError, TimeoutError) as exc:
        sys.stdout.write(f"\ncheck-image: failed: {exc}\n")
        return 1
    sys.stdout.write("check-image: passed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

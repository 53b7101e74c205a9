"""Checks on a GPU what the tests check on a CPU, and measures it: one command, in stages.

``scripts/check-gpu`` runs ``python -m benchmarks.check_gpu``. Each stage prints what it finds. A
stage that fails costs the others nothing. At the end stands a table for docs/performance.md.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from typing_extensions import override

from benchmarks import models, report
from benchmarks.useful_work import operations
from hatespeech.cli import make_parser
from hatespeech.engine.batcher import Batcher
from hatespeech.engine.pass_size import PASS_SECONDS, PassSize
from hatespeech.engine.predictor import Predictor, Probabilities, Sequences
from hatespeech.errors import ServiceError, describe_exception
from hatespeech.model.network import Attention, CustomModel, ModelConfig, SelfAttention
from hatespeech.model.packing import PackedBatch
from hatespeech.paths import EMBEDDED
from hatespeech.settings import EngineSettings
from tests.support.memory import reset_peak, resident

ROOT: Final = Path(__file__).resolve().parent.parent
CLOSE: Final = 1e-4  # of two scores in float32
CLOSE_IN_HALF: Final = 2e-2
SAME_LABELS: Final = 0.995
# Too little for a pass of 16,384 tokens at the large shape, which widens them to 134 MB twice.
LITTLE_MEMORY: Final = 128 << 20
TOO_FAST_TO_PACE: Final = 1e300  # tokens a second

DESCRIPTION: Final = """\
Check this machine's GPU, and measure it: scores against the CPU's, company in a batch, recovery
from too little memory, warm-up, speed by the size of a pass, two kinds of attention, memory, cold
start.

It needs no network, only the packages of the service, and takes a few minutes. It prints what each
stage finds, and at the end a table, which it also writes to FILE. Please send yours: open an issue
with it."""


@dataclass(frozen=True)
class Scale:
    """How much is measured, and on which shape."""

    shape: ModelConfig
    texts: int  # of the sample
    alone: int  # of these, scored one by one
    sizes: Sequence[int]  # of passes, in tokens
    batch: int  # tokens of a full pass
    paced: int  # texts
    repeats: int


FULL: Final = Scale(models.LARGE, 500, 200, [2**power for power in range(16)], 16_384, 10_000, 10)
SMALL: Final = Scale(
    ModelConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128),
    *(40, 5, [1, 32, 256], 2_048, 200, 1),
)


@dataclass(frozen=True)
class Line:
    """One line of the table. ``met`` is ``None`` where nothing is wanted."""

    name: str
    found: str
    wanted: str = ""
    met: bool | None = None


@dataclass
class Subject:
    """The device under check, and what several stages use."""

    device: torch.device
    scale: Scale
    folder: Path
    speeds: list[str] = field(default_factory=list)  # lines of the table of speeds

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def texts(self) -> list[str]:
        """The sample's texts."""
        return models.sample_texts()[: self.scale.texts]

    @cached_property
    def config(self) -> ModelConfig:
        """The shape that is measured, with the embedded vocabulary."""
        return dataclasses.replace(self.scale.shape, vocab_size=models.embedded().model.vocab_size)

    @cached_property
    def large_folder(self) -> Path:
        """A checkpoint of the measured shape with random weights."""
        path = self.folder / "random"
        path.mkdir()
        models.write_checkpoint(path, self.scale.shape)
        return path

    @cached_property
    def large(self) -> Predictor:
        """That checkpoint, as it is served."""
        return self.load(self.large_folder, "auto")

    def load(self, folder: Path, dtype: str, device: str = "") -> Predictor:
        """Load a checkpoint as the service does."""
        return Predictor.from_settings(
            EngineSettings.from_environment(
                {"MODEL_DIR": str(folder), "DTYPE": dtype, "DEVICE": device or str(self.device)}
            )
        )

    def sequences(self, tokens: int) -> Sequences:
        """Return sequences as long as tweets are, of so many tokens together."""
        found: Sequences = []
        left = tokens
        while left:
            length = min(24 + len(found) % 17, left)
            found.append(self.large._of_length(length))
            left -= length
        return found

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median time of a call, the device's work included."""
        times = []
        for _ in range(self.scale.repeats + 2):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
        return median(times[2:])

    def wait(self) -> None:
        """Wait until a GPU has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and write the table; return 1 if a check fails, 2 without the device."""
    parser = make_parser("scripts/check-gpu", DESCRIPTION)
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:N, or cpu: little work, to try this script"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("check-gpu.md"), metavar="FILE", help="(%(default)s)"
    )
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        sys.stderr.write(f"error: there is no {device}, or torch {torch.__version__} lacks CUDA\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(device, SMALL if device.type == "cpu" else FULL, Path(name))
        found = list(run(subject))
    document = table(subject, found)
    options.output.write_text(document, encoding="utf-8")
    print(f"\n{document}\nwritten to {options.output}")
    return 1 if any(line.met is False for line in found) else 0


def run(subject: Subject) -> Iterator[Line]:
    """Run every stage, print its lines and yield them."""
    for number, (name, stage) in enumerate(STAGES.items(), 1):
        print(f"[{number}/{len(STAGES)}] {name}", flush=True)
        began = time.perf_counter()
        lines: list[Line] = []
        try:
            for line in stage(subject):
                lines.append(line)
                print(f"    {line.name}: {line.found} {verdict(line)}".rstrip(), flush=True)
        except Exception as exc:
            lines.append(Line(name, f"failed: {describe_exception(exc)}", "an answer", False))
            print(f"    {lines[-1].found}: {exc}", flush=True)
        print(f"    {time.perf_counter() - began:.1f} s", flush=True)
        yield from lines


def verdict(line: Line) -> str:
    """Return in words whether a line is as it should be."""
    return {None: "", True: f"({line.wanted})", False: f"(NOT {line.wanted})"}[line.met]


def table(subject: Subject, lines: Sequence[Line]) -> str:
    """Return the Markdown table."""
    rows = [
        f"**{device_name(subject)}**, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"Python {sys.version.split()[0]}; host: {report.processor()}.",
        "",
        "| check | found | wanted | |",
        "| --- | --- | --- | --- |",
    ]
    for line in lines:
        met = {None: "", True: "met", False: "**not met**"}[line.met]
        rows.append(f"| {line.name} | {line.found} | {line.wanted} | {met} |")
    rows += ["", "| tokens in a pass | ms | tokens/s | TFLOP/s | of the bare product |"]
    return "\n".join([*rows, "| ---: | ---: | ---: | ---: | ---: |", *subject.speeds, ""])


def device_name(subject: Subject) -> str:
    """Return the device's name and memory."""
    if not subject.on_gpu:
        return "CPU, little work"
    properties = torch.cuda.get_device_properties(subject.device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


# The stages.


def equal_to_the_cpu(subject: Subject) -> Iterator[Line]:
    """Compare the embedded checkpoint's scores on the device with the CPU's in float32."""
    expected = models.scores(subject.load(EMBEDDED, "float32", "cpu").score(subject.texts))
    for dtype in ("float32", "float16", "bfloat16"):
        found = models.scores(subject.load(EMBEDDED, dtype).score(subject.texts))
        yield from compared(f"{dtype} against the CPU's float32", dtype, found, expected)


def company(subject: Subject) -> Iterator[Line]:
    """Compare texts that are scored one by one with the same texts in one batch."""
    for dtype in ("float32", "float16", "bfloat16"):
        predictor = subject.load(EMBEDDED, dtype)
        few = subject.scale.alone
        together = models.scores(predictor.score(subject.texts))[:few]
        alone = models.scores([predictor.score([text])[0] for text in subject.texts[:few]])
        yield from compared(f"{dtype}, alone against in company", dtype, alone, together)


def warm_up(subject: Subject) -> Iterator[Line]:
    """Time the loading, the warm-up and the first passes after it."""
    _ = subject.large_folder
    began = time.perf_counter()
    predictor = subject.large
    yield Line("loading, large shape", f"{time.perf_counter() - began:.2f} s")
    began = time.perf_counter()
    predictor.warm_up(subject.scale.batch)
    yield Line("warm-up", f"{time.perf_counter() - began:.2f} s")
    tweet = [predictor._of_length(30)]
    passes = []
    for _ in range(3):
        began = time.perf_counter()
        predictor.probabilities(tweet)
        passes.append(f"{(time.perf_counter() - began) * 1e3:.1f}")
    yield Line("one tweet after it, first to third pass", f"{', '.join(passes)} ms")


def speeds(subject: Subject) -> Iterator[Line]:
    """Measure passes of different sizes beside the device's own product of as many rows."""
    for tokens in subject.scale.sizes:
        sequences = subject.sequences(tokens)
        seconds = subject.seconds(partial(subject.large.probabilities, sequences))
        work = operations(subject.config, tokens, len(sequences)) / 1e12
        bare = product(subject, tokens)
        cells = [
            f"{tokens:,}",
            f"{seconds * 1e3:.2f}",
            f"{tokens / seconds:,.0f}",
            f"{work / seconds:.3g}",
            f"{work / seconds / bare:.2f}",
        ]
        subject.speeds.append(f"| {' | '.join(cells)} |")
        print(f"    {' '.join(cells)}", flush=True)
    yield Line("speed by the size of a pass", "see below")


def attention(subject: Subject) -> Iterator[Line]:
    """Compare attention over padded groups with that over sequences of any length."""
    # Flash attention takes half precision alone.
    padded = models.random_model(subject.config).to(subject.device, torch.float16)
    varlen = copy.deepcopy(padded)
    use_varlen(varlen)
    sequences = subject.sequences(subject.scale.batch)
    passes: dict[str, Callable[[Sequences], Tensor]] = {
        "padded groups": partial(forward, padded),
        "varlen_attn, num_splits=1": partial(forward, varlen),
    }
    found = {}
    for name, one_pass in passes.items():
        found[name] = together = one_pass(sequences)
        seconds = subject.seconds(partial(one_pass, sequences))
        yield Line(f"{name}: {subject.scale.batch} tokens", f"{seconds * 1e3:.2f} ms")
        few = sequences[:20]
        alone = torch.cat([one_pass([sequence]) for sequence in few])
        difference = float((alone - together[: len(few)]).abs().max())
        yield Line(f"{name}: a text alone against in company, logits", f"{difference:.1e}")
    difference = float(torch.sub(*found.values()).abs().max())
    met = difference <= CLOSE_IN_HALF
    yield Line("both, logits", f"differ by {difference:.1e}", f"at most {CLOSE_IN_HALF}", met)


def pacing(subject: Subject) -> Iterator[Line]:
    """Score many texts through the batcher; say which size of a pass it finds."""
    size = PassSize(subject.scale.batch, subject.large.tokens_per_second)
    texts = (models.sample_texts() * (subject.scale.paced // 100 + 1))[: subject.scale.paced]
    began = time.perf_counter()
    outcomes, passes = through_a_batcher(subject, texts, size)
    seconds = time.perf_counter() - began
    aim = f"{PASS_SECONDS * 1e3:.0f} ms"
    yield Line(f"passes of {aim}, found in {passes} passes", f"{size.tokens:,} tokens")
    yield Line("texts a second, reading included", f"{len(outcomes) / seconds:,.0f}")


def out_of_memory(subject: Subject) -> Iterator[Line]:
    """Score a long text and short ones through a batcher that has too little memory."""
    long = " ".join(subject.texts * 9)
    while isinstance(subject.large.score([long])[0], ServiceError):
        long = long[: len(long) * 9 // 10]  # until it has as many windows as are allowed
    texts = [long, *subject.texts[:50]]
    expected = models.scores(subject.large.score(texts))
    size = PassSize(subject.scale.batch, TOO_FAST_TO_PACE)
    with little_memory(subject):
        outcomes, _ = through_a_batcher(subject, texts, size)
    met = 0 < size.tokens < subject.scale.batch
    yield Line("too little memory: a pass", f"{size.tokens:,} tokens", "fewer than before", met)
    dtype = str(subject.large._model.linear1.weight.dtype).removeprefix("torch.")
    yield from compared("with too little memory", dtype, models.scores(outcomes), expected)


def memory(subject: Subject) -> Iterator[Line]:
    """Measure the memory that a full pass takes beside the weights."""
    sequences = subject.sequences(subject.scale.batch)
    if subject.on_gpu:
        torch.cuda.reset_peak_memory_stats(subject.device)
        before = torch.cuda.memory_allocated(subject.device)
    else:
        before = reset_peak()
    subject.large.probabilities(sequences)
    peak = torch.cuda.max_memory_allocated(subject.device) if subject.on_gpu else resident("VmHWM")
    yield Line("memory before a pass", f"{before / 2**30:.2f} GiB")
    yield Line(f"a pass of {subject.scale.batch} tokens more", f"{(peak - before) / 2**30:.2f} GiB")


def cold_start(subject: Subject) -> Iterator[Line]:
    """Time a process from its start to its first scores."""
    ours = (
        "from hatespeech import Classifier\n"
        f"loaded = Classifier.load({str(subject.large_folder)!r}, device={str(subject.device)!r})\n"
        "with loaded as classifier:\n"
        "    assert classifier.score('good morning').scores"
    )
    bare = f"import torch; torch.zeros(1, device={str(subject.device)!r})"
    took = []
    for code in (ours, bare):
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        took.append(time.perf_counter() - began)
    yield Line("cold start to the first scores", f"{took[0]:.1f} s")
    yield Line("import torch and one tensor on the device", f"{took[1]:.1f} s")


STAGES: Final[Mapping[str, Callable[[Subject], Iterator[Line]]]] = {
    "the same scores as on the CPU": equal_to_the_cpu,
    "company in the batch": company,
    "loading and warm-up": warm_up,
    "speed by the size of a pass": speeds,
    "attention: padded groups and varlen": attention,
    "passes that follow the speed": pacing,
    "recovery from too little memory": out_of_memory,
    "memory of a full pass": memory,
    "cold start": cold_start,
}


# What the stages use.


def compared(name: str, dtype: str, found: Tensor, expected: Tensor) -> Iterator[Line]:
    """Compare scores closely in float32, and the labels in half precision."""
    difference = float((found - expected).abs().max())
    same = float((found.argmax(1) == expected.argmax(1)).float().mean())
    if dtype == "float32":
        met = difference <= CLOSE
        yield Line(f"{name}: scores differ by", f"{difference:.1e}", f"at most {CLOSE}", met)
    else:
        yield Line(f"{name}: scores differ by", f"{difference:.1e}")
        met = same >= SAME_LABELS
        yield Line(f"{name}: same labels", f"{same:.2%}", f"at least {SAME_LABELS:.1%}", met)


def through_a_batcher(subject: Subject, texts: list[str], size: PassSize) -> tuple[list[Any], int]:
    """Score texts as one request; return the outcomes and the number of passes."""

    async def scored() -> tuple[list[Any], int]:
        batcher = Batcher(
            subject.large,
            pass_size=size,
            max_queue_texts=len(texts),
            max_request_tokens=2**40,
            on_broken=lambda: None,
        )
        try:
            outcomes, _ = await batcher.score(texts)
            return outcomes, batcher.counters.batches
        finally:
            batcher.close()

    return asyncio.run(scored())


@contextmanager
def little_memory(subject: Subject) -> Iterator[None]:
    """Leave the device too little memory for a full pass; the CPU only says that it has."""
    if subject.on_gpu:
        torch.cuda.empty_cache()
        most = torch.cuda.memory_reserved(subject.device) + LITTLE_MEMORY
        total = torch.cuda.get_device_properties(subject.device).total_memory
        torch.cuda.set_per_process_memory_fraction(most / total, subject.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, subject.device)
        return
    real = subject.large.probabilities

    def limited(sequences: Sequences) -> Probabilities:
        if sum(map(len, sequences)) > subject.scale.batch // 2:
            raise torch.OutOfMemoryError("a pass that is too large")
        return real(sequences)

    with patch.object(subject.large, "probabilities", limited):
        yield


@torch.inference_mode()
def product(subject: Subject, rows: int) -> float:
    """Return the TFLOP/s of one layer's products of so many rows, without anything else."""
    hidden, wide = subject.config.hidden_size, subject.config.intermediate_size
    sizes = [(hidden, hidden)] * 4 + [(hidden, wide), (wide, hidden)]
    like: dict[str, Any] = {
        "device": subject.device,
        "dtype": subject.large._model.linear1.weight.dtype,
    }
    inputs = {size: torch.randn(rows, size, **like) for size in (hidden, wide)}
    weights = [torch.randn(after, before, **like) for before, after in sizes]

    def layer() -> None:
        for weight in weights:
            F.linear(inputs[weight.shape[1]], weight)

    work = sum(2 * rows * before * after for before, after in sizes) / 1e12
    return work / subject.seconds(layer)


@torch.inference_mode()
def forward(model: CustomModel, sequences: Sequences) -> Tensor:
    """Return logits in float32, on the CPU."""
    return model.forward_sequences(sequences).float().cpu()


def use_varlen(model: CustomModel) -> None:
    """Switch a model from padded groups to :class:`VarlenAttention`."""
    for module in model.model.encoder.modules():
        if isinstance(module, Attention):
            module.self = VarlenAttention(module.self)  # type: ignore[assignment]  # same interface


class VarlenAttention(nn.Module):
    """Attention over packed sequences of any lengths in one call, without padding."""

    def __init__(self, padded: SelfAttention) -> None:
        super().__init__()
        self.heads = padded.heads
        self.query, self.key, self.value = padded.query, padded.key, padded.value

    @override
    def forward(self, hidden: Tensor, batch: PackedBatch, first_only: bool) -> Tensor:
        """Return what :meth:`SelfAttention.forward` returns."""
        end = batch.groups[-1].end
        first = batch.first[: sum(group.count for group in batch.groups)]
        starts = torch.cat([first, first.new_tensor([end])]).int()
        longest = max(group.length for group in batch.groups)
        query, asked, most = self.query(hidden[:end]), starts, longest
        rest = hidden[end:]  # rows that belong to no sequence
        if first_only:
            query = query[first]
            rest = hidden[batch.first[len(first) :]]
            asked, most = torch.arange(len(starts), device=hidden.device, dtype=torch.int32), 1
        parts = [query, self.key(hidden[:end]), self.value(hidden[:end])]
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in parts)
        attend = flash if hidden.is_cuda else one_by_one
        context = attend(q, k, v, asked, starts, most, longest).flatten(1)
        return torch.cat([context, rest])


def flash(
    q: Tensor, k: Tensor, v: Tensor, asked: Tensor, starts: Tensor, most: int, longest: int
) -> Tensor:
    """Attend by flash attention, in one part, so that a text's result is its own."""
    context: Any = varlen_attn(q, k, v, asked, starts, most, longest, num_splits=1)
    result: Tensor = context
    return result


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, asked: Tensor, starts: Tensor, _most: int, _longest: int
) -> Tensor:
    """Attend as :func:`flash` does, sequence by sequence, where there is no flash attention."""
    contexts = []
    for index in range(len(starts) - 1):
        mine = slice(int(asked[index]), int(asked[index + 1]))
        tokens = slice(int(starts[index]), int(starts[index + 1]))
        turned = (q[mine].transpose(0, 1), k[tokens].transpose(0, 1), v[tokens].transpose(0, 1))
        contexts.append(F.scaled_dot_product_attention(*turned).transpose(0, 1))
    return torch.cat(contexts)


if __name__ == "__main__":
    sys.exit(main())

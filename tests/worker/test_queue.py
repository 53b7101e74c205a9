"""The worker under the real SDK's job loop, against a stand-in of the platform's job API."""

from __future__ import annotations

import random
import re
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from hatespeech.model.checkpoint import WEIGHTS
from tests.conftest import StartWorker
from tests.support.bad_inputs import BAD_INPUTS, BAD_ITEMS, MARKER
from tests.support.checkpoints import SENTENCES
from tests.support.faulty_device import Switches
from tests.support.processes.worker import APP, FAULTY_WORKER, SCORED, WorkerProcess, wait_until
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import LOST, RESET, Fault

# The most that the SDK and we could be told to log.
LOUD = {"RUNPOD_LOG_LEVEL": "DEBUG", "RUNPOD_DEBUG_LEVEL": "DEBUG", "LOG_LEVEL": "DEBUG"}
LONE_SURROGATE = f"{MARKER} half an emoji \ud83d and more"
# Time to finish every job, on the slowest machine.
PATIENT = {"STOP_SECONDS": "600"}
UNHEALTHY = "unhealthy: the device failed; this worker is being replaced"


def tweets(seed: int, count: int) -> list[str]:
    """Return invented tweets, no two alike."""
    rng = random.Random(seed)
    vocabulary = " ".join(SENTENCES).split()
    return [
        f"{MARKER} {seed}.{i} {' '.join(rng.choices(vocabulary, k=rng.randint(1, 20)))}"
        for i in range(count)
    ]


class Scores:
    """What the same model says in this process."""

    def __init__(self, classifier: Predictor) -> None:
        self._classifier = classifier
        self._known: dict[str, Prediction] = {}

    def check_items(self, items: Iterable[Mapping[str, Any]], texts: list[str]) -> None:
        """Hold reply items to what their texts score alone, in order."""
        new = [text for text in texts if text not in self._known]
        for text, result in zip(new, self._classifier.score(new), strict=True):
            assert isinstance(result, Prediction)
            self._known[text] = result
        for item, text in zip(items, texts, strict=True):
            assert item["text"] == text
            expected = self._known[text].scores
            assert [item[label] for label in LABELS] == pytest.approx(expected, abs=1e-5)
            assert item["label"] == max(LABELS, key=item.__getitem__)
            assert item["windows"] == self._known[text].windows

    def check(self, answer: Mapping[str, Any] | None, job_input: Mapping[str, Any]) -> None:
        """Hold the answer to a job of sound texts to the contract."""
        assert answer is not None
        assert answer.keys() == {"output"}
        reply = answer["output"]
        assert reply["model"] == self._classifier.model_id
        assert reply["timing"].keys() == {"queue_ms", "compute_ms"}
        for name in job_input.keys() & {"prompt", "text"}:
            self.check_items([reply], [job_input[name]])
        for name in job_input.keys() & {"prompts", "texts"}:
            assert reply.keys() == {"items", "model", "timing", "versions"}
            self.check_items(reply["items"], job_input[name])


@pytest.fixture(scope="module")
def scores(small_classifier: Predictor) -> Scores:
    return Scores(small_classifier)


def wait_answered(endpoint: RunpodEndpoint, worker: WorkerProcess, job_ids: list[str]) -> None:
    """Return once all these jobs are answered; fail at once if the worker dies before."""
    wait_until(
        lambda: endpoint.all_answered(job_ids),
        f"answers to {len(job_ids)} jobs",
        watch=worker.require_running,
    )


def wait_begun(worker: WorkerProcess, job_ids: list[str]) -> None:
    """Return once the handler has been called for all these jobs."""
    wait_until(
        lambda: worker.started(job_ids),
        f"{len(job_ids)} jobs to begin",
        watch=worker.require_running,
    )


def end(endpoint: RunpodEndpoint, worker: WorkerProcess) -> int:
    """Send SIGTERM, and end the long polls as the platform does; return the exit code."""
    worker.terminate()
    endpoint.drain()
    return worker.wait()


# One worker that gets one of everything, five hundred times, and SIGTERM with jobs in flight.


@dataclass
class Sent:
    """A job's input, what kind of job it is, and the error it must give, if any."""

    kind: str
    input: Any
    error: str = ""


@dataclass
class Shift:
    """What one worker was given, and what became of it."""

    endpoint: RunpodEndpoint
    worker: WorkerProcess
    sent: dict[str, Sent]
    exit_code: int

    def of(self, kind: str) -> list[tuple[Mapping[str, Any] | None, Sent]]:
        """Return the answers to, and the jobs of, one kind; never nothing."""
        found = [(self.endpoint.answer(i), job) for i, job in self.sent.items() if job.kind == kind]
        assert found
        return found


@pytest.fixture(scope="module")
def shift(start_worker: StartWorker) -> Iterator[Shift]:
    singles = ({("prompt", "text")[i % 2]: text} for i, text in enumerate(tweets(1, 370)))
    batches = ({("prompts", "texts")[i % 2]: tweets(100 + i, 1 + i % 25)} for i in range(100))
    first, last = tweets(2, 2)
    jobs = [
        *(Sent("good", job) for job in singles),
        *(Sent("good", job) for job in batches),
        *(Sent("bad", bad.input, bad.error) for bad in BAD_INPUTS),
        Sent("mixed", {"prompts": [first, *(item for item, _ in BAD_ITEMS), last]}),
        Sent("surrogate", {"prompt": LONE_SURROGATE}),
        Sent("surrogates", {"prompts": [first, LONE_SURROGATE]}),
        Sent("rich", {"text": "day in", "explain": True, "thresholds": {"hate": 0, "spam": 1}}),
    ]
    random.Random(0).shuffle(jobs)
    late = [Sent("late", {"prompts": tweets(1000 + i, 60)}) for i in range(30)]
    with RunpodEndpoint() as endpoint:
        endpoint.fail("job-take", Fault(400))
        endpoint.fail("job-done", Fault(500))
        variables = {**endpoint.environment(), **LOUD, **PATIENT}
        worker = start_worker([APP, "--rp_log_level", "DEBUG"], variables)
        ids = endpoint.submit(*(job.input for job in jobs))
        (without_input,) = endpoint.submit_bodies([{}])
        wait_answered(endpoint, worker, [*ids, without_input])
        wait_until(lambda: len(endpoint.pings) > 0, "a ping", watch=worker.require_running)
        late_ids = endpoint.submit(*(job.input for job in late))
        wait_begun(worker, late_ids)
        exit_code = end(endpoint, worker)
        sent = dict(zip([*ids, *late_ids], [*jobs, *late], strict=True))
        error = "validation: input: must be an object with prompt or prompts"
        sent[without_input] = Sent("bad", None, error)
        yield Shift(endpoint, worker, sent, exit_code)


def test_every_job_is_answered_exactly_once_and_by_the_protocol(shift: Shift) -> None:
    assert shift.endpoint.problems == []
    assert sorted(shift.endpoint.answered) == sorted(shift.sent)


def test_good_jobs_get_the_scores_of_their_own_texts(shift: Shift, scores: Scores) -> None:
    for answer, job in shift.of("good"):
        scores.check(answer, job.input)


def test_bad_jobs_get_one_line_that_names_the_field(shift: Shift) -> None:
    assert len(shift.of("bad")) == len(BAD_INPUTS) + 1
    for answer, job in shift.of("bad"):
        assert answer == {"error": job.error}


def test_only_the_bad_items_of_a_list_fail(shift: Shift, scores: Scores) -> None:
    ((answer, job),) = shift.of("mixed")
    assert answer is not None
    first, *bad, last = answer["output"]["items"]
    sound = [job.input["prompts"][0], job.input["prompts"][-1]]
    scores.check_items([first, last], sound)
    assert len(bad) == len(BAD_ITEMS)
    for index, (item, (value, error)) in enumerate(zip(bad, BAD_ITEMS, strict=True), 1):
        text = value if isinstance(value, str) else ""
        assert item == {"text": text, "error": error.format(place=f"prompts[{index}]")}


def test_a_lone_surrogate_is_read_and_echoed_as_a_replacement_character(
    shift: Shift, scores: Scores
) -> None:
    readable = LONE_SURROGATE.replace("\ud83d", "\ufffd")
    ((answer, _),) = shift.of("surrogate")
    scores.check(answer, {"prompt": readable})
    ((answer, job),) = shift.of("surrogates")
    scores.check(answer, {"prompts": [job.input["prompts"][0], readable]})


def test_words_and_flags_come_only_when_asked_for(
    shift: Shift, small_classifier: Predictor
) -> None:
    ((answer, _),) = shift.of("rich")
    assert answer is not None
    reply = answer["output"]
    (expected,) = small_classifier.score(["day in"], explain="shapley")
    assert isinstance(expected, Prediction)
    assert expected.words is not None
    assert reply["flagged"] == ["hate"]
    words = [(word["word"], word["start"], word["end"]) for word in reply["words"]]
    assert words == [("day", 0, 3), ("in", 4, 6)]
    for word, influence in zip(reply["words"], expected.words, strict=True):
        assert [word[label] for label in LABELS] == pytest.approx(
            list(influence.scores.values()), abs=1e-5
        )
    for plain, _ in shift.of("good"):
        assert plain is not None
        assert not {"words", "flagged", "window"} & plain["output"].keys()


def test_sigterm_loses_no_job_in_flight(shift: Shift, scores: Scores) -> None:
    for answer, job in shift.of("late"):
        scores.check(answer, job.input)
    assert shift.exit_code == 0


def test_concurrent_jobs_share_batches(shift: Shift) -> None:
    counters = shift.worker.counters()
    sound = [job for kind in ("good", "late") for _, job in shift.of(kind)]
    assert counters["requests"] >= len(sound)
    assert counters["sequences"] >= counters["texts"] - len(BAD_ITEMS)
    assert counters["shared_batches"] > 0
    assert counters["batches"] < len(sound) / 2


def test_no_log_quotes_a_text_at_any_level(shift: Shift) -> None:
    assert ": Started." in shift.worker.stderr
    assert re.search(SCORED, shift.worker.stderr)
    for output in (shift.worker.stdout, shift.worker.stderr):
        assert MARKER not in output
        assert "Handler output" not in output


def test_no_error_quotes_a_text(shift: Shift) -> None:
    for answer, _ in shift.of("bad"):
        assert answer is not None
        assert MARKER not in answer["error"]
        assert "\n" not in answer["error"]


# A worker on a device that can be held, so that what waits behind it is certain.


@dataclass
class Held:
    """A worker whose next forward pass waits while the file ``hold`` exists."""

    endpoint: RunpodEndpoint
    worker: WorkerProcess
    switches: Switches

    def hold(self) -> str:
        """Stop the device in the middle of a job's only batch; return the job's id."""
        self.switches.hold()
        (job_id,) = self.endpoint.submit({"prompt": "holds the device"})
        wait_until(
            lambda: self.switches.held,
            "the device to be held",
            watch=self.worker.require_running,
        )
        return job_id

    def release(self) -> None:
        """Let the device go on."""
        self.switches.release()


def start_held(
    endpoint: RunpodEndpoint,
    start_worker: StartWorker,
    switches: Path,
    environment: Mapping[str, str],
    *arguments: str,
) -> Held:
    worker = start_worker(
        [*FAULTY_WORKER, "--switches", str(switches), *arguments],
        {**endpoint.environment(), **LOUD, **PATIENT, **environment},
    )
    # Not before it asks for jobs: its start-up check runs a forward pass too.
    wait_until(lambda: endpoint.takes > 0, "the worker to start", watch=worker.require_running)
    return Held(endpoint, worker, Switches(switches))


def test_one_tweet_behind_a_thousand_is_answered_first(
    start_worker: StartWorker, tmp_path: Path, scores: Scores
) -> None:
    with RunpodEndpoint() as endpoint:
        held = start_held(endpoint, start_worker, tmp_path, {"MAX_BATCH_TOKENS": "512"})
        held.hold()
        thousand = {"prompts": tweets(3, 1024)}
        (big,) = endpoint.submit(thousand)
        wait_begun(held.worker, [big])
        tweet = {"prompt": "a single tweet"}
        (small,) = endpoint.submit(tweet)
        wait_begun(held.worker, [small])
        wait_until(
            lambda: {big, small} <= set(endpoint.pings[-1].get("job_id", "").split(",")),
            "a ping that names both",
            watch=held.worker.require_running,
        )
        held.release()
        wait_answered(endpoint, held.worker, [big, small])
        assert endpoint.answered.index(small) < endpoint.answered.index(big)
        scores.check(endpoint.answer(small), tweet)
        scores.check(endpoint.answer(big), thousand)
        assert end(endpoint, held.worker) == 0
        assert endpoint.problems == []
        assert held.worker.counters()["shared_batches"] == 1
        assert MARKER not in held.worker.stdout + held.worker.stderr


def test_a_stopped_job_is_never_answered_and_gives_its_room_to_others(
    start_worker: StartWorker, tmp_path: Path, scores: Scores
) -> None:
    with RunpodEndpoint() as endpoint:
        held = start_held(endpoint, start_worker, tmp_path, {"MAX_QUEUE_TEXTS": "1024"})
        holder = held.hold()
        # Room for 1,023 more: the first job fills most of it, the others wait for room.
        (queued,) = endpoint.submit({"prompts": tweets(4, 1000)})
        wait_begun(held.worker, [queued])
        after = {"prompts": tweets(6, 800)}
        (waiting,) = endpoint.submit({"prompts": tweets(5, 900)})
        wait_begun(held.worker, [waiting])
        (behind,) = endpoint.submit(after)
        wait_begun(held.worker, [behind])
        endpoint.stop_jobs(queued, waiting)
        wait_until(
            lambda: endpoint.stopped(queued, waiting),
            "the stop",
            watch=held.worker.require_running,
        )
        held.release()
        wait_answered(endpoint, held.worker, [holder, behind])
        scores.check(endpoint.answer(behind), after)
        # All its room is back: a request of the largest size fits.
        largest = {"prompts": tweets(7, 1024)}
        (last,) = endpoint.submit(largest)
        wait_answered(endpoint, held.worker, [last])
        scores.check(endpoint.answer(last), largest)
        # SIGTERM while the device is busy with a batch, others waiting.
        holder = held.hold()
        later = [{"prompt": text} for text in tweets(8, 20)]
        in_flight = endpoint.submit(*later)
        wait_begun(held.worker, in_flight)
        held.worker.terminate()
        endpoint.drain()
        assert not {holder, *in_flight} & set(endpoint.answered)
        held.worker.require_running()
        held.release()
        assert held.worker.wait() == 0
        for job_id, job in zip(in_flight, later, strict=True):
            scores.check(endpoint.answer(job_id), job)
        assert endpoint.answer(holder) is not None
        assert endpoint.answer(queued) is None
        assert endpoint.answer(waiting) is None
        assert endpoint.problems == []
        counters = held.worker.counters()
        # Nothing of the stopped jobs reached the device; one of them never got room.
        assert counters["sequences"] == 1 + 800 + 1024 + 1 + 20
        assert counters["requests"] == 5 + 20
        # What waited behind the last held batch was scored together.
        assert counters["shared_batches"] >= 1


def test_a_broken_device_answers_all_that_wait_and_ends_the_process(
    start_worker: StartWorker, tmp_path: Path, scores: Scores
) -> None:
    with RunpodEndpoint() as endpoint:
        held = start_held(endpoint, start_worker, tmp_path, {}, "--culprit", MARKER)
        sound = {"prompt": "before it broke"}
        (before,) = endpoint.submit(sound)
        wait_answered(endpoint, held.worker, [before])
        scores.check(endpoint.answer(before), sound)
        held.hold()
        singles = endpoint.submit(*({"prompt": text} for text in tweets(9, 50)))
        batches = endpoint.submit(*({"prompts": tweets(50 + i, 50)} for i in range(5)))
        jobs = [*singles, *batches]
        wait_begun(held.worker, jobs)
        held.switches.break_device()
        held.release()
        wait_answered(endpoint, held.worker, jobs)
        held.worker.require_running()  # until its last poll returns
        endpoint.drain()
        assert held.worker.wait() == 1
        for job_id in jobs:
            assert endpoint.answer(job_id) == {"error": UNHEALTHY, "stopPod": True}
        assert endpoint.problems == []
        assert MARKER not in held.worker.stdout + held.worker.stderr


def test_a_text_that_the_device_fails_on_fails_alone(
    start_worker: StartWorker, tmp_path: Path, scores: Scores
) -> None:
    culprit = f"{MARKER} breaks it"
    with RunpodEndpoint() as endpoint:
        held = start_held(
            endpoint, start_worker, tmp_path, {}, "--culprit", culprit, "--memory-tokens", "200"
        )
        held.hold()
        singles = [{"prompt": text} for text in tweets(10, 40)]
        list_of_many = tweets(11, 100)
        list_of_many[50] = culprit
        ids = endpoint.submit(*singles)
        alone, among = endpoint.submit({"prompt": culprit}, {"prompts": list_of_many})
        wait_begun(held.worker, [*ids, alone, among])
        held.release()
        wait_answered(endpoint, held.worker, [*ids, alone, among])
        assert end(endpoint, held.worker) == 0
        for job_id, job in zip(ids, singles, strict=True):
            scores.check(endpoint.answer(job_id), job)
        error = "internal: the text could not be scored"
        assert endpoint.answer(alone) == {"error": error}
        answer = endpoint.answer(among)
        assert answer is not None
        items = answer["output"]["items"]
        assert items.pop(50) == {"text": list_of_many.pop(50), "error": error}
        scores.check_items(items, list_of_many)
        assert endpoint.problems == []
        # There is memory for 200 tokens, a few of these texts, and no pass reads fewer than 256.
        found = re.findall(r"a batch now reads at most (\d+) tokens", held.worker.stderr)
        budgets = list(map(int, found))
        assert budgets == sorted(budgets, reverse=True)
        assert budgets[-1] == 512
        assert MARKER not in held.worker.stdout + held.worker.stderr


# Stops, and replies that do not arrive.


def wait_told_to_stop(worker: WorkerProcess) -> None:
    """Return once the worker has seen its first signal."""
    wait_until(lambda: "told to stop" in worker.stderr, "the stop", watch=worker.require_running)


def test_jobs_that_the_last_poll_brings_are_scored(
    start_worker: StartWorker, scores: Scores
) -> None:
    with RunpodEndpoint() as endpoint:
        worker = start_worker([APP], {**endpoint.environment(), **PATIENT})
        wait_until(lambda: endpoint.takes > 0, "the worker to start", watch=worker.require_running)
        worker.terminate()
        wait_told_to_stop(worker)
        jobs = [{"prompts": tweets(20 + i, 5)} for i in range(10)]
        ids = endpoint.submit(*jobs)
        # The poll for stops stays open for 90 s.
        assert worker.wait(80) == 0
        for job_id, job in zip(ids, jobs, strict=True):
            scores.check(endpoint.answer(job_id), job)
        assert endpoint.problems == []


@pytest.mark.parametrize(("seconds", "signals"), [("0", 1), ("3600", 2)])
def test_what_is_not_scored_in_time_is_answered_for_the_caller_to_try_again(
    seconds: str, signals: int, start_worker: StartWorker, tmp_path: Path
) -> None:
    with RunpodEndpoint() as endpoint:
        held = start_held(endpoint, start_worker, tmp_path, {"STOP_SECONDS": seconds})
        holder = held.hold()
        waiting = endpoint.submit(*({"prompt": text} for text in tweets(30, 5)))
        wait_begun(held.worker, [holder, *waiting])
        held.worker.terminate()
        wait_told_to_stop(held.worker)
        if signals == 2:
            assert endpoint.answered == []
            held.worker.terminate()
        wait_answered(endpoint, held.worker, [holder, *waiting])
        (late,) = endpoint.submit({"prompt": "what the last poll brings"})
        wait_until(lambda: endpoint.all_answered([late]), "an answer to the last job")
        held.release()
        assert held.worker.wait() == 0
        for job_id in (holder, *waiting, late):
            error = "unhealthy: this worker is being stopped; try again"
            assert endpoint.answer(job_id) == {"error": error}
        assert endpoint.problems == []


def test_a_reply_is_posted_until_it_is_taken_and_the_work_is_done_once(
    start_worker: StartWorker, scores: Scores
) -> None:
    with RunpodEndpoint() as endpoint:
        endpoint.fail("job-done", RESET, LOST, RESET, RESET, RESET, Fault(503), Fault(429), LOST)
        worker = start_worker([APP], {**endpoint.environment(), **PATIENT})
        jobs = [{"prompt": text} for text in tweets(40, 4)]
        ids = endpoint.submit(*jobs)
        wait_answered(endpoint, worker, ids)
        assert end(endpoint, worker) == 0
        for job_id, job in zip(ids, jobs, strict=True):
            scores.check(endpoint.answer(job_id), job)
        assert endpoint.problems == []
        assert worker.counters()["requests"] == len(jobs)


def test_a_reply_that_the_platform_refuses_for_good_is_posted_once(
    start_worker: StartWorker, scores: Scores
) -> None:
    with RunpodEndpoint() as endpoint:
        endpoint.fail("job-done", Fault(413))
        worker = start_worker([APP], {**endpoint.environment(), **PATIENT})
        (refused,) = endpoint.submit({"prompt": "a reply that is too large"})
        wait_until(
            lambda: f"{refused} was refused with 413" in worker.stderr,
            "the refusal",
            watch=worker.require_running,
        )
        job = {"prompt": "another"}
        (other,) = endpoint.submit(job)
        wait_answered(endpoint, worker, [other])
        assert end(endpoint, worker) == 0
        scores.check(endpoint.answer(other), job)
        assert endpoint.answer(refused) is None
        assert endpoint.problems == []


def test_sigterm_before_the_first_job_ends_the_worker(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    switches = Switches(tmp_path)
    switches.hold()  # at the check of its fitness
    with RunpodEndpoint() as endpoint:
        command = [*FAULTY_WORKER, "--switches", str(tmp_path)]
        worker = start_worker(command, endpoint.environment())
        wait_until(lambda: switches.held, "the device to be held", watch=worker.require_running)
        worker.terminate()
        assert worker.wait() == 128 + signal.SIGTERM
        assert endpoint.takes == 0


# Fitness: whether a worker may start at all.


def test_a_worker_without_the_gpu_it_is_paid_for_refuses_to_start(
    start_worker: StartWorker,
) -> None:
    with RunpodEndpoint() as endpoint:
        worker = start_worker([APP], {**endpoint.environment(), "DEVICE": ""})
        assert worker.wait() == 1
        assert "no CUDA device; set DEVICE=cpu to serve on a CPU on purpose" in worker.stderr
        assert endpoint.takes == 0
        assert [ping["status"] for ping in endpoint.pings] == ["unhealthy"]


def test_a_model_that_gives_nan_refuses_to_start(
    start_worker: StartWorker, small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(small_checkpoint, folder)
    weights = load_file(folder / WEIGHTS)
    weights["linear2.bias"][0] = float("nan")
    save_file(weights, folder / WEIGHTS)
    with RunpodEndpoint() as endpoint:
        worker = start_worker([APP], {**endpoint.environment(), "MODEL_DIR": str(folder)})
        assert worker.wait() == 1
        assert "the model does not score: internal" in worker.stderr
        assert endpoint.takes == 0

"""Reads mutated checkpoints in a process with little memory and time, and counts what comes of it.

    python -m tests.support.pickles.fuzz COUNT SEED PUBLISHED...

Prints one JSON object. Each mutation has one second of processor time; the process has 4 GiB of
address space.
"""

import json
import pickletools
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

from hatespeech.fetching.pickle.module import (
    UnsafePickleError,
    check_state_dict,
    read_pickled_module,
)
from tests.support.pickles.torch_files import (
    Entries,
    archive,
    legacy,
    legacy_pickle,
    pickle_of,
    read_archive,
    with_pickle,
)

ADDRESS_SPACE = 4 << 30
SECONDS = 1.0


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change one to four places: flip bits, set, insert, delete, truncate, or splice in `other`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed)) if changed else 0
        length = rng.choice((1, 1, 2, 4, 16, 200))
        start = rng.randrange(len(other))
        match rng.randrange(8):
            case 0:
                changed[at : at + 1] = bytes(
                    b ^ 1 << rng.randrange(8) for b in changed[at : at + 1]
                )
            case 1:
                changed[at : at + 1] = rng.randbytes(1)
            case 2:
                changed[at:at] = rng.randbytes(length)
            case 3:
                del changed[at : at + length]
            case 4:
                del changed[at:]
            case 5:
                changed[at:at] = other[start : start + length]
            case 6:
                changed[at : at + length] = other[start : start + length]
            case 7:
                # The largest and smallest lengths, counts and indices.
                changed[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"))
    return bytes(changed)


@cache
def opcodes(data: bytes) -> tuple[bytes, ...]:
    starts = [at for _, _, at in pickletools.genops(data) if at is not None]
    ends = [*starts[1:], len(data)]
    return tuple(data[start:end] for start, end in zip(starts, ends, strict=True))


def mutate_opcodes(data: bytes, rng: random.Random) -> bytes:
    """Delete, repeat or exchange whole opcodes, so that much of what follows still parses."""
    parts = list(opcodes(data))
    for _ in range(rng.choice((1, 1, 1, 3))):
        first, second = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(4):
            case 0:
                parts[first] = b""
            case 1:
                parts[first] *= 2
            case 2:
                parts[first], parts[second] = parts[second], parts[first]
            case 3:
                parts[first] = parts[second]
    return b"".join(parts)


def mutated_file(sources: list[Entries], rng: random.Random) -> bytes:
    """Mutate the pickle, under a right checksum, or the container around it."""
    entries, other = rng.choice(sources), pickle_of(rng.choice(sources))
    data = pickle_of(entries)
    in_zip = rng.random() < 0.5
    match rng.randrange(4):
        case 0 if in_zip:
            whole = archive(entries)
            # Mostly the directory at the end; the storages are most of the file and but numbers.
            cut = rng.choice((len(whole) - 5000, len(whole) - 300, 0))
            return whole[:cut] + mutate(whole[cut:], whole, rng)
        case 0:
            whole = legacy(entries)
            cut = rng.choice((300, len(data), len(whole)))
            return mutate(whole[:cut], whole, rng) + whole[cut:]
        case 1:
            data = mutate_opcodes(data if in_zip else legacy_pickle(data), rng)
        case _:
            data = mutate(data if in_zip else legacy_pickle(data), other, rng)
    return archive(with_pickle(entries, data)) if in_zip else legacy(entries, data)


def outcome(path: Path) -> str:
    try:
        module = read_pickled_module(path)
    except UnsafePickleError as exc:
        message = str(exc)
        return "refused" if message.isprintable() and len(message) < 250 else "wordy refusal"
    try:
        check_state_dict(module.state_dict, module.config)
    except UnsafePickleError:
        return "failed the strict check"
    return "passed the strict check"


def on_alarm(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError("over the time limit")


def main() -> None:
    count, seed, *published = sys.argv[1:]
    rng = random.Random(int(seed))
    sources = [read_archive(Path(path)) for path in published]
    # Laying out the first model imports much of torch; zipfile, the code page of old names.
    "".encode("cp437")
    assert outcome(Path(published[0])) == "passed the strict check"
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGPROF, on_alarm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    modules = set(sys.modules)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.pt"
        for number in range(int(count)):
            path.write_bytes(mutated_file(sources, rng))
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                outcomes[outcome(path)] += 1
            except BaseException as exc:
                outcomes[f"escaped at {number}: {exc!r}"] += 1
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.process_time() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        json.dumps(
            {
                "outcomes": outcomes,
                "slowest": slowest,
                "peak": peak,
                "imported": sorted(set(sys.modules) - modules),
            }
        )
    )


if __name__ == "__main__":
    main()

"""Scores texts through a SingularityNET daemon over gRPC, and prints a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc

ROOT: Final = Path(__file__).resolve().parent.parent
SCORES: Final = ("hate", "abusing", "neutral", "spam", "toxic")
THRESHOLD_NAMES: Final = ("balanced", "strict")
SHOWN_CHARS: Final = 40

DESCRIPTION = """\
Score texts through a SingularityNET daemon over gRPC, and print a table.

It compiles service.proto at its start, which needs grpcio-tools. It sends no payment: use it with a
daemon of your own that asks for none, such as the tests' stand-in. A published service wants
payment or grants free calls: call it with snet-sdk, as docs/singularitynet.md shows."""

EXAMPLES = """\
examples:
  python examples/snet_client.py --endpoint 127.0.0.1:8088 "good morning"
  python examples/snet_client.py --endpoint 127.0.0.1:8088 --threshold hate=0.5 \\
      "good morning" "you are scum"
  python examples/snet_client.py --endpoint 127.0.0.1:8088 --thresholds strict "you are scum"
  python examples/snet_client.py --endpoint 127.0.0.1:8088 --explain "you are scum"
"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="one text, or many in one call")
    parser.add_argument(
        "--endpoint",
        required=True,
        type=address,
        metavar="HOST:PORT",
        help="address of the daemon, without https://",
    )
    parser.add_argument("--tls", action="store_true", help="the daemon has a certificate")
    parser.add_argument(
        "--explain", action="store_true", help="show the words that moved the scores most"
    )
    flagged = parser.add_mutually_exclusive_group()
    flagged.add_argument(
        "--threshold",
        action="append",
        default=[],
        type=threshold,
        metavar="SCORE=N",
        help=f"mark texts whose score reaches N, from 0 to 1; scores: {', '.join(SCORES)}",
    )
    flagged.add_argument(
        "--thresholds",
        choices=THRESHOLD_NAMES,
        help="mark texts by thresholds that the model recommends, if it does",
    )
    parser.add_argument(
        "--timeout", type=float, default=330, metavar="SECONDS", help="(%(default)s)"
    )
    return parser.parse_args(arguments)


def address(value: str) -> str:
    """Read ``host:port``, which gRPC takes; metadata holds it with ``https://``."""
    scheme, separator, _ = value.partition("://")
    if separator:
        tls = "; add --tls" if scheme == "https" else ""
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, without {scheme}://{tls}")
    return value


def threshold(value: str) -> tuple[str, float]:
    """Read ``score=number``."""
    name, _, number = value.partition("=")
    if name not in SCORES:
        raise argparse.ArgumentTypeError(f"score must be one of {', '.join(SCORES)}")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError("must be SCORE=NUMBER") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Call the daemon once; return the exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, str(ROOT))  # the next line looks for the file there
    messages: Any
    messages, services = grpc.protos_and_services("service.proto")
    question = messages.Input(explain=options.explain)
    if len(options.texts) == 1:
        question.prompt = options.texts[0]
    else:
        question.prompts.extend(options.texts)
    if options.threshold:
        question.thresholds.CopyFrom(messages.Thresholds(**dict(options.threshold)))
    elif options.thresholds:
        question.thresholds.name = options.thresholds
    channel = (
        grpc.secure_channel(options.endpoint, grpc.ssl_channel_credentials())
        if options.tls
        else grpc.insecure_channel(options.endpoint)
    )
    with channel:
        try:
            reply = services.runsyncStub(channel).runsync(
                messages.data(input=question), timeout=options.timeout
            )
        except grpc.RpcError as error:
            # The error of a call is also a Call, which its base class does not say.
            reason = error.details() if isinstance(error, grpc.Call) else str(error)
            return fail(str(reason).splitlines()[0])
    if reply.status != "COMPLETED" or not reply.HasField("output"):
        return fail(f"{reply.status}: {reply.error or 'no result yet'} (job {reply.id})")
    show(reply.output)
    return 0


def show(result: Any) -> None:
    """Print the table, and below each text its strongest words, if there are any."""
    items = result.items or [result]
    print(*(f"{name:>8}" for name in SCORES), f"{'label':<8}", "text", sep="  ")
    for item in items:
        text = " ".join(item.text.split())
        text = text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
        if item.error:
            # Its scores are not set. They would read as zeros.
            print(*(f"{'-':>8}" for _ in SCORES), f"{'-':<8}", f"{text}  [{item.error}]", sep="  ")
            continue
        notes = f"  [flagged: {', '.join(item.flagged)}]" if item.flagged else ""
        if item.windows > 1:
            notes += f"  [{item.windows} windows, {item.window[0]}-{item.window[1]} spoke]"
        scores = (f"{getattr(item, name):8.4f}" for name in SCORES)
        print(*scores, f"{item.label:<8}", f"{text}{notes}", sep="  ")
        strongest = sorted(item.words, key=lambda word: abs(getattr(word, item.label)))[-3:]
        for word in reversed(strongest):
            print(f"{getattr(word, item.label):+8.4f}  {item.label} by {word.word!r}")
    print(f"model {result.model}, computed in {result.timing.compute_ms:.0f} ms")


def fail(reason: str) -> int:
    """Say why on one line; return the exit code."""
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Scores texts through a published SingularityNET service, for pay, and prints a table."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, Final

SCORES: Final = ("hate", "abusing", "neutral", "spam", "toxic")
SHOWN_CHARS: Final = 40
COGS_PER_TOKEN: Final = 10**18
DAY_BLOCKS: Final = 7200  # a block every 12 seconds
ATTEMPTS: Final = 5
FIRST_PAUSE_SECONDS: Final = 2

DESCRIPTION = """\
Score texts through a published SingularityNET service, pay for the call, and print a table.

The first call sends two transactions: it opens a payment channel that holds the price of many
calls. Later calls send none, until the channel is empty or near its end. One text or many cost the
same: a call.

It needs snet-sdk 6.0.0, in an environment of its own. These variables say who pays, and where:

  SNET_PRIVATE_KEY       key of the account that pays
  SNET_ETH_RPC_ENDPOINT  URL of an Ethereum node, for instance of Sepolia
  SNET_IPFS_ENDPOINT     another IPFS node than SingularityNET's, as a multiaddress"""

EXAMPLES = """\
examples:
  python snet_paid_client.py --organization my-org --service tweet-scores "good morning"
  python snet_paid_client.py --organization my-org --service tweet-scores --calls 1000 \\
      "good morning" "you are scum"
"""


class CallerError(Exception):
    """What keeps the call from succeeding, on one line."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="one text, or many in one call")
    parser.add_argument("--organization", required=True, metavar="ID")
    parser.add_argument("--service", required=True, metavar="ID")
    parser.add_argument("--group", default="default_group", metavar="NAME", help="(%(default)s)")
    parser.add_argument(
        "--calls",
        type=int,
        default=100,
        metavar="N",
        help="put the price of N calls into an empty channel (%(default)s)",
    )
    parser.add_argument(
        "--days",
        type=int,
        default=10,
        metavar="N",
        help="for how long a new channel takes calls; until its end, what you do not spend stays "
        "in it (%(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Call the service once; return the exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    for name in ("SNET_PRIVATE_KEY", "SNET_ETH_RPC_ENDPOINT"):
        if not os.environ.get(name):
            return fail(f"{name} is not set")
    try:
        # The SDK reports its progress on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            reply, note = call(options)
    except CallerError as error:
        return fail(str(error))
    except Exception as error:  # the SDK and its libraries raise many kinds, and Exception itself
        return fail(f"{type(error).__name__}: {first_line(error)}")
    # Only COMPLETED comes with an output. The scores of an absent output read as zeros.
    if reply.status != "COMPLETED" or not reply.HasField("output"):
        return fail(f"{reply.status}: {reply.error or 'no result yet'} (job {reply.id})")
    show(reply.output)
    print(note, file=sys.stderr)
    return 0


def call(options: argparse.Namespace) -> tuple[Any, str]:
    """Pay for one call; return the reply and a line about the payment."""
    # The SDK's client of IPFS uses an argument that urllib3 will drop. mypy does not see the SDK,
    # which is in an environment of its own.
    warnings.filterwarnings("ignore", category=FutureWarning, module="urllib3")
    from snet.sdk import PaidCallPaymentStrategy, SnetSDK  # type: ignore[import-not-found]  # as above

    sdk = SnetSDK()
    account = sdk.account
    # The SDK counts an account's transactions from 1, so the first would wait for one before it.
    account.nonce = -1
    before = sdk.w3.eth.get_transaction_count(account.address)
    strategy = PaidCallPaymentStrategy(
        block_offset=options.days * DAY_BLOCKS, call_allowance=options.calls
    )
    client = sdk.create_service_client(
        options.organization, options.service, options.group, payment_strategy=strategy
    )
    fund_channel(client, options.calls, options.days)
    question = (
        {"prompt": options.texts[0]} if len(options.texts) == 1 else {"prompts": options.texts}
    )
    reply = call_with_pauses(client, question)
    sent = sdk.w3.eth.get_transaction_count(account.address) - before
    price = client.get_price() / COGS_PER_TOKEN
    return reply, f"paid {price:.18f}".rstrip("0").rstrip(".") + f" FET; transactions: {sent}"


def fund_channel(client: Any, calls: int, days: int) -> None:
    """Open a channel for many calls if there is none; the SDK opens one for a single call.

    Raises :class:`CallerError` if the account has too few tokens: the SDK would send transactions
    that fail, and cost ether.
    """
    if client.load_open_channels():
        return
    amount = calls * client.get_price()
    account = client.account
    deposited = client.get_mpe_balance()
    owned = account.token_contract.functions.balanceOf(account.address).call()
    end = client.default_channel_expiration() + days * DAY_BLOCKS
    if deposited >= amount:
        client.open_channel(amount, end)
    elif owned >= amount:
        client.deposit_and_open_channel(amount, end)
    else:
        needed, has = amount / COGS_PER_TOKEN, max(owned, deposited) / COGS_PER_TOKEN
        raise CallerError(f"{calls} calls cost {needed:g} FET, and the account has {has:g}")


def call_with_pauses(client: Any, question: dict[str, Any]) -> Any:
    """Call the service; try again, after a pause, while another try can succeed.

    Neither kind of failure is paid for. Raises :class:`CallerError` if the call fails for good.
    """
    import grpc

    for attempt in range(ATTEMPTS):
        try:
            return client.call_rpc("runsync", "data", input=question)
        except grpc.RpcError as error:
            # The error of a call is also a Call, which its base class does not say.
            if not isinstance(error, grpc.Call):
                raise
            code, reason = error.code(), first_line(error.details())
            if attempt == ATTEMPTS - 1 or not is_passing(code.name, reason):
                raise CallerError(f"{code.name}: {reason}") from None
        pause = FIRST_PAUSE_SECONDS * 2**attempt
        print(f"{code.name}: {reason}; next try in {pause} s", file=sys.stderr)
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def is_passing(code: str, reason: str) -> bool:
    """Say whether an error may be gone after a pause.

    FAILED_PRECONDITION means that another call on the same channel is in progress. UNAVAILABLE
    holds the back end's status: what it refuses for the input (4xx) it will refuse again.
    """
    if code == "UNAVAILABLE":
        return not re.search(r"upstream http status 4(?!29|08)", reason)
    return code == "FAILED_PRECONDITION"


def show(result: Any) -> None:
    """Print the table."""
    print(*(f"{name:>8}" for name in SCORES), f"{'label':<8}", "text", sep="  ")
    for item in result.items or [result]:
        text = " ".join(item.text.split())
        text = text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
        if item.error:
            # Its scores are not set. They would read as zeros.
            print(*(f"{'-':>8}" for _ in SCORES), f"{'-':<8}", f"{text}  [{item.error}]", sep="  ")
            continue
        scores = (f"{getattr(item, name):8.4f}" for name in SCORES)
        print(*scores, f"{item.label:<8}", text, sep="  ")


def first_line(reason: Any) -> str:
    """Return the first line of a message; some are long."""
    return str(reason).strip().partition("\n")[0].rstrip()


def fail(reason: str) -> int:
    """Say why on one line; return the exit code."""
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

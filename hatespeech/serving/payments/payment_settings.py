"""The settings of a server that sells calls. It sells nothing unless they are set."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr

from hatespeech.settings import EngineSettings, checked
from hatespeech.urls import keeps_secrets

ADDRESS: Final = r"0x[0-9a-fA-F]{40}"
_URL: Final = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?"
)


def _is_receiver(value: str) -> bool:
    return re.fullmatch(ADDRESS, value) is not None and int(value, 16) > 0


def _is_token(value: str) -> bool:
    form = rf"{ADDRESS},[^,]{{1,64}},[^,]{{1,16}},1?\d"
    return re.fullmatch(form, value) is not None and value.isprintable()


def _is_safe_url(value: str) -> bool:
    return _URL.fullmatch(value) is not None and keeps_secrets(value)


def _is_price(value: str) -> bool:
    return re.fullmatch(r"\d{1,9}(\.\d{1,18})?", value) is not None and Decimal(value) > 0


def _is_key(value: SecretStr) -> bool:
    return re.fullmatch(r"(sandbox|live):[!-~]+", value.get_secret_value()) is not None


class PaymentSettings(EngineSettings):
    """What is sold, at which price, and who is asked whether it is paid; checked one by one."""

    pay_to: Annotated[
        str | None,
        checked(_is_receiver),
        Field(
            description="Address that receives payments by x402; none are taken if unset. Needs "
            "`PRICE`, `PAY_FACILITATOR`, `PUBLIC_URL` and `BEARER_TOKEN`.",
            json_schema_extra={"allowed": "0x and 40 hexadecimal digits"},
        ),
    ] = None
    price: Annotated[
        str | None,
        checked(_is_price),
        Field(
            description="Price of one text of up to 1,000 characters, read once; in whole tokens, "
            "so dollars for USDC.",
            json_schema_extra={"allowed": "a decimal number above 0, such as 0.0005"},
        ),
    ] = None
    price_minimum: Annotated[
        str,
        checked(_is_price),
        Field(
            description="Least price of one request. Keep it above the facilitator's fee.",
            json_schema_extra={"allowed": "a decimal number above 0"},
        ),
    ] = "0.002"
    pay_network: Annotated[
        str,
        Field(
            pattern=r"^eip155:[1-9]\d{0,14}$",
            description="Chain on which buyers pay: Base, or `eip155:84532`, its test network. Any "
            "other needs `PAY_TOKEN`.",
            json_schema_extra={"allowed": "eip155: and the chain's number"},
        ),
    ] = "eip155:8453"
    pay_token: Annotated[
        str | None,
        checked(_is_token),
        Field(
            description="Token that buyers pay in: its address, its EIP-712 name and version, and "
            "its decimals. It must have EIP-3009. If unset, USDC.",
            json_schema_extra={"allowed": "ADDRESS,NAME,VERSION,DECIMALS"},
        ),
    ] = None
    pay_facilitator: Annotated[
        str | None,
        checked(_is_safe_url),
        Field(
            description="URL of the x402 facilitator, which checks and settles payments.",
            json_schema_extra={"allowed": "https://…, or http://… of a host without a dot"},
        ),
    ] = None
    cdp_api_key_id: Annotated[
        str | None,
        Field(
            pattern=r"^[!-~]{1,256}$",
            description="Id of the key of Coinbase's Developer Platform that signs requests to its "
            "facilitator.",
            json_schema_extra={"allowed": "visible ASCII"},
        ),
    ] = None
    cdp_api_key_secret: Annotated[
        SecretStr | None,
        Field(
            description="That key: Ed25519 in base64, or an EC key in PEM format.",
            json_schema_extra={"allowed": "a key"},
        ),
    ] = None
    nvm_api_key: Annotated[
        SecretStr | None,
        checked(_is_key),
        Field(
            description="Key of Nevermined's API; credits are taken if it is set. Needs "
            "`NVM_PLAN`, `NVM_AGENT`, `PUBLIC_URL` and `BEARER_TOKEN`.",
            json_schema_extra={"allowed": "sandbox:… or live:…"},
        ),
    ] = None
    nvm_plan: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9:_-]{1,128}$",
            description="Id of the plan whose credits pay for calls: one for each text of up to "
            "1,000 characters, read once.",
            json_schema_extra={"allowed": "the id that the registration gives"},
        ),
    ] = None
    nvm_agent: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9:_-]{1,128}$",
            description="Id of the agent that this server is at Nevermined.",
            json_schema_extra={"allowed": "the id that the registration gives"},
        ),
    ] = None
    nvm_network: Annotated[
        str | None,
        Field(
            pattern=r"^(eip155:[1-9]\d{0,14}|[a-z]{2,32})$",
            description="What the plan is bought with: a chain, or a card's processor such as "
            "`stripe`. If unset, Base for a `live` key and its test network for a `sandbox` key.",
            json_schema_extra={"allowed": "eip155: and a number, or a name"},
        ),
    ] = None
    nvm_url: Annotated[
        str | None,
        checked(_is_safe_url),
        Field(
            description="URL of Nevermined's API. If unset, that of the key's environment.",
            json_schema_extra={"allowed": "https://…, or http://… of a host without a dot"},
        ),
    ] = None
    receipts_file: Annotated[
        Path | None,
        Field(
            description="File to which a line is appended for each payment: time, transaction, "
            "payer, amount, route, number of texts; never a text.",
            json_schema_extra={"allowed": "a file"},
        ),
    ] = None
    paid_reply_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=3600,
            description="Seconds for which a paid reply stays in memory, for a buyer whose "
            "connection broke and who sends the same payment again; 0 keeps none.",
        ),
    ] = 300

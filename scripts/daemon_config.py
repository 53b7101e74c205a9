"""Fills daemon_config.json for the SingularityNET daemon and writes it readable by you alone.

``scripts/daemon-config`` runs this. It checks what its user gives, and the whole by the daemon's
own rules, which are in ``snetd_config.py``. It needs no package.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from hatespeech.cli import make_parser
from hatespeech.urls import keeps_secrets
from scripts import snetd_config
from scripts.snetd_config import HOST, PORT

ROOT: Final = Path(__file__).resolve().parent.parent
TEMPLATE: Final = ROOT / "daemon_config.json"

RUNPOD_URL: Final = "https://api.runpod.ai/v2"
MAX_WAIT_SECONDS: Final = 300  # what /runsync allows, Runpod's and our own
TIMEOUT_SLACK_SECONDS: Final = 20  # the daemon must outlast the wait, to bring its answer
# What gRPC's clients read unless they raise their limit. Our server refuses a larger reply, and any
# job without scores, before the daemon takes the payment.
CALLERS_READ_BYTES: Final = 4 * 1024 * 1024
LOCAL: Final = ("127.0.0.1", "localhost", "::1")
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a daemon has callers
# Keys that may stay open, since the ids are chosen when the service is published.
OPEN_KEYS: Final = {"organization_id": "--organization", "service_id": "--service"}

DESCRIPTION: Final = """\
Fill daemon_config.json for the SingularityNET daemon (snetd 6) and write it with mode 0600.

The file holds secrets. They come from the environment, never from the command line:
  RUNPOD_API_KEY                   the key the daemon calls your Runpod endpoint with
  BEARER_TOKEN                     with --self-hosted: the token of your own service; of several,
                                   separated by commas, the first is written
  SNET_TOKEN_SECRET_KEY            optional; signs the daemon's payment tokens, 32 bytes or more.
                                   Unset, a new one is made, and earlier tokens become void
  SNET_PRIVATE_KEY_FOR_FREE_CALLS  optional; the key that signs for free calls: 64 hex digits, with
                                   or without 0x

Any other key of snetd comes from the variable that snetd itself reads for it, SNET_ and the key in
capitals: SNET_MIN_BALANCE_FOR_FREE_CALL=1, SNET_ETHEREUM_JSON_RPC_HTTP_ENDPOINT=https://…. Objects
and lists are JSON. An option wins over a variable here; when snetd runs, a variable that is still
set wins over the file.

docs/singularitynet.md says what each key of the file is for."""

EXAMPLES: Final = """\
examples:
  RUNPOD_API_KEY=… scripts/daemon-config --endpoint-id 4xk2ab7dyl3f9z \\
      --organization my-org --service tweet-scores
  BEARER_TOKEN=… scripts/daemon-config --self-hosted http://127.0.0.1:8000 \\
      --organization my-org --service tweet-scores --network main
then: snetd -c snetd.local.json
"""


class ConfigError(Exception):
    """The file can't be filled or written; the message is one line and holds no secret."""


@dataclass(frozen=True)
class Rule:
    """What an option or a variable must look like."""

    pattern: str
    words: str

    def of(self, source: str, value: str | None) -> str | None:
        """Return a value, or ``None`` if there is none.

        Raises :class:`ConfigError`, which names the source and does not quote the value.
        """
        if value is not None and not (re.fullmatch(self.pattern, value) and has_valid_host(value)):
            raise ConfigError(f"{source}: must be {self.words}")
        return value


def has_valid_host(text: str) -> bool:
    """Say whether an address, if the text is one, has no impossible IPv6 host."""
    try:
        urlsplit(text if "//" in text else f"//{text}")
    except ValueError:
        return False
    return True


NAME: Final = Rule(r"[ -~]+", "printable ASCII and not empty")
ENDPOINT: Final = Rule(r"[A-Za-z0-9_-]+", "letters, digits, - and _ only, not a URL")
LISTEN: Final = Rule(rf"({HOST})?:({PORT})", "HOST:PORT or :PORT")
URL: Final = Rule(  # the daemon drops a query string
    rf"(?i:https?)://({HOST})(:({PORT}))?(/[^?#\s]*)?",
    "an http:// or https:// URL without credentials and query string",
)
SECRET: Final = Rule(r"[!-~]+", "printable ASCII without spaces")
TOKENS: Final = Rule(
    r"[\s,]*[!-+\--~]+(\s*,[\s,]*[!-+\--~]+)*[\s,]*",
    "printable ASCII without spaces, or several such tokens separated by commas",
)
LONG_KEY: Final = Rule(r"[!-~]{32,}", "32 bytes or more, printable ASCII without spaces")
HEX_KEY: Final = Rule(r"(0[xX])?[0-9a-fA-F]{64}", "64 hex digits, with or without 0x")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exit with 2 if it does not make sense."""
    parser = make_parser("scripts/daemon-config", DESCRIPTION, EXAMPLES)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--endpoint-id", metavar="ID", help="your Runpod serverless endpoint")
    target.add_argument("--self-hosted", metavar="URL", help="your own HTTP service instead")
    parser.add_argument("--organization", metavar="ID", help="as published on SingularityNET")
    parser.add_argument("--service", metavar="ID", help="as published on SingularityNET")
    parser.add_argument("--group", metavar="NAME", help="payment group (default_group)")
    parser.add_argument(
        "--network", choices=["sepolia", "main"], help="sepolia, the test network, unless given"
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="where the daemon listens (0.0.0.0:8088); :PORT is 0.0.0.0:PORT, every IPv4 address "
        "of this machine",
    )
    parser.add_argument(
        "--wait-seconds",
        metavar="N",
        type=int,
        default=MAX_WAIT_SECONDS,
        help=f"how long a call may wait for its result, 1 to {MAX_WAIT_SECONDS} (%(default)s)",
    )
    parser.add_argument("--ssl-cert", metavar="FILE", help="certificate, with --ssl-key")
    parser.add_argument("--ssl-key", metavar="FILE", help="its private key")
    storage = parser.add_mutually_exclusive_group()
    storage.add_argument(
        "--data-dir",
        metavar="FOLDER",
        type=Path,
        default=Path("~/.local/state/snetd/etcd"),
        help="where the daemon keeps what callers owe you, outside of the repository: back it up "
        "(%(default)s)",
    )
    storage.add_argument(
        "--external-etcd",
        action="store_true",
        help="keep that in the etcd that the organization's metadata names instead, for several "
        "daemons of one group",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("snetd.local.json"),
        help="inside the repository its name must end in .local.json, which git ignores "
        "(%(default)s)",
    )
    return parser.parse_args(arguments)


def fill(
    template: Mapping[str, Any], options: argparse.Namespace, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the template's content with all that was given in its place.

    Raises :class:`ConfigError` naming the option or variable that is not right.
    """
    if not 1 <= options.wait_seconds <= MAX_WAIT_SECONDS:
        raise ConfigError(f"--wait-seconds: must be from 1 to {MAX_WAIT_SECONDS}")
    if bool(options.ssl_cert) != bool(options.ssl_key):
        raise ConfigError("--ssl-cert, --ssl-key: give both or neither")

    def variable(name: str, rule: Rule) -> str | None:
        return rule.of(name, environment.get(name, "").strip() or None)

    def secret(name: str, rule: Rule) -> str:
        value = variable(name, rule)
        if value is None:
            raise ConfigError(f"{name} is not set")
        return value

    variables = dict(snetd_config.from_environment(environment))
    given = {
        "service_timeout": f"{options.wait_seconds + TIMEOUT_SLACK_SECONDS}s",
        "token_secret_key": secrets.token_urlsafe(48),
        **variables,
    }
    # snetd refuses a key with 0x.
    if key := variable("SNET_PRIVATE_KEY_FOR_FREE_CALLS", HEX_KEY):
        given["private_key_for_free_calls"] = re.sub("^0[xX]", "", key)
    if key := variable("SNET_TOKEN_SECRET_KEY", LONG_KEY):
        given["token_secret_key"] = key
    listen = LISTEN.of("--listen", options.listen) or variable("SNET_DAEMON_ENDPOINT", LISTEN)
    options_given = {
        "organization_id": NAME.of("--organization", options.organization),
        "service_id": NAME.of("--service", options.service),
        "daemon_group_name": NAME.of("--group", options.group),
        "blockchain_network_selected": options.network,
        "daemon_endpoint": everywhere(listen),
        "ssl_cert": absolute(options.ssl_cert),
        "ssl_key": absolute(options.ssl_key),
        "payment_channel_storage_server": storage(template, options),
    }
    if options.self_hosted is not None:
        base, health = addresses(safe_url("--self-hosted", options.self_hosted.strip()))
        given = {"service_heartbeat_type": "http", "heartbeat_endpoint": health, **given}
        # The service takes any of its tokens, and a header has room for one.
        token = secret("BEARER_TOKEN", TOKENS).replace(",", " ").split()[0]
    else:
        name = "RUNPOD_ENDPOINT_BASE_URL"
        api = safe_url(name, environment.get(name, "").strip() or RUNPOD_URL).rstrip("/")
        base = f"{api}/{ENDPOINT.of('--endpoint-id', options.endpoint_id)}"
        token = secret("RUNPOD_API_KEY", SECRET)
    credentials = [
        {"key": "Authorization", "value": f"Bearer {token}", "location": "header"},
        {"key": "wait", "value": str(options.wait_seconds * 1000), "location": "query"},
    ]
    if options.self_hosted is not None:
        limit = str(CALLERS_READ_BYTES)
        credentials.append({"key": "Scores-Or-Error", "value": limit, "location": "header"})
    config = {
        **template,
        **given,
        **{key: value for key, value in options_given.items() if value is not None},
        "service_endpoint": f"{base}/",
        "service_credentials": credentials,
    }
    require_apart(config["daemon_endpoint"], config["service_endpoint"])
    settled = snetd_config.settle(config)
    for refusal in (*snetd_config.ignored(config), *snetd_config.refusals(settled)):
        source = f"SNET_{refusal.key.upper()}" if refusal.key in variables else refusal.key
        raise ConfigError(f"{source}: {refusal.rule}")
    return config


def safe_url(source: str, value: str) -> str:
    """Return a URL that may get the token and the texts.

    Raises :class:`ConfigError`, which names the source and does not quote the value.
    """
    url = str(URL.of(source, value))
    if not keeps_secrets(url):
        raise ConfigError(
            f"{source}: must begin with https://, or the token and the texts would travel "
            "unencrypted; http:// is for this machine, or for a host without a dot"
        )
    return url


def everywhere(listen: str | None) -> str | None:
    """Return where to listen with the address that ``:PORT`` leaves out."""
    return f"{EVERYWHERE}{listen}" if listen and listen.startswith(":") else listen


def absolute(file: str | None) -> str | None:
    """Return a path that holds in whatever folder the daemon starts."""
    return file and str(Path(file).expanduser().absolute())


def storage(template: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the etcd inside the daemon."""
    folder = options.data_dir.expanduser().resolve()
    if folder.is_relative_to(ROOT):
        raise ConfigError("--data-dir: must be outside of the repository")
    return {
        **template["payment_channel_storage_server"],
        "data_dir": str(folder),
        "enabled": not options.external_etcd,
    }


def addresses(url: str) -> tuple[str, str]:
    """Return the address that the daemon adds ``/runsync`` to, and that of the service's health.

    ``url`` is the service's own address, or that of its route ``/runsync``, which also exists below
    ``/v2/<endpoint id>``.
    """
    scheme, _, rest = url.partition("://")
    base = f"{scheme.lower()}://{rest}".rstrip("/")
    base = re.sub(r"/+runsync$", "", base)
    if urlsplit(base).hostname == urlsplit(RUNPOD_URL).hostname:
        raise ConfigError("--self-hosted: is Runpod's API; give --endpoint-id instead")
    return base, re.sub(r"/v2/[^/]+$", "", base) + "/health"


def require_apart(daemon: str, service: str) -> None:
    """Raise :class:`ConfigError` if the daemon would listen where the service does.

    snetd checks this only for some ways to write an address.
    """
    ours, theirs = urlsplit(f"//{daemon}"), urlsplit(service)
    here = (ours.hostname, *(LOCAL if ours.hostname in (EVERYWHERE, "::") else ()))
    port = theirs.port or {"http": 80, "https": 443}[theirs.scheme]
    if theirs.hostname in here and ours.port == port:
        raise ConfigError("--listen: must differ from the service's host and port")


def write(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all, readable by its owner alone from the first byte on."""
    folder = path.parent.resolve()
    if folder.is_relative_to(ROOT) and not path.name.endswith(".local.json"):
        raise ConfigError(f"{path}: must end in .local.json, for git to ignore it")
    if path.is_symlink():
        raise ConfigError(f"{path}: is a symbolic link")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is not a file")
    temporary = None
    try:
        # mkstemp creates with mode 0600; the name, too, is one that git ignores
        descriptor, temporary = tempfile.mkstemp(
            dir=folder, prefix=f".{path.name}.", suffix=".local.json"
        )
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # A link put there meanwhile would be replaced, not followed.
        Path(temporary).replace(folder / path.name)
    except OSError as exc:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, check, write; return the exit code."""
    options = parse_arguments(arguments)
    try:
        template = json.loads(TEMPLATE.read_text(encoding="utf-8"))
        config = fill(template, options, os.environ)
        write(options.output, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    except ConfigError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    sys.stdout.write(f"{options.output}: holds secrets, readable by you alone\n")
    for key, _ in snetd_config.from_environment(os.environ):
        sys.stdout.write(f"{key}: from SNET_{key.upper()}\n")
    missing = [option for key, option in OPEN_KEYS.items() if config[key].startswith("<")]
    if missing:
        sys.stdout.write(f"still to fill before the daemon starts: {', '.join(missing)}\n")
    return 0

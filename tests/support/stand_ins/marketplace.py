"""Publishes this service on a chain of this machine, as snet-cli does."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any, Final

from tests.support.stand_ins.chain import Account, LocalChain
from tests.support.stand_ins.ipfs import IpfsNode
from tests.support.stand_ins.snet_daemon import METADATA, PROTO

ORGANIZATION: Final = "my-org"
SERVICE: Final = "tweet-scores"
GROUP_NAME: Final = "default_group"
PRICE: Final = 10**13  # cogs: 0.00001 FET, the price on the page
ID_BYTES: Final = 32


@dataclass(frozen=True)
class PaymentGroup:
    """What the organisation's metadata say about payment."""

    payment_address: str
    group_id: str = base64.b64encode(bytes(range(ID_BYTES))).decode()
    expiration_threshold: int = 100  # blocks


def publish(
    chain: LocalChain, ipfs: IpfsNode, operator: Account, group: PaymentGroup, endpoint: str
) -> dict[str, Any]:
    """Publish organisation and service; return the service's metadata.

    ``endpoint`` is the daemon's URL.
    """
    chain.send(
        chain.registry,
        "createOrganization(bytes32,bytes,address[])",
        *(identifier(ORGANIZATION), uri(ipfs, organization_metadata(group)), []),
        sender=operator.address,
    )
    metadata = service_metadata(group, endpoint) | {
        "mpe_address": chain.escrow,
        "service_api_source": f"ipfs://{add_proto(ipfs)}",
    }
    chain.send(
        chain.registry,
        "createServiceRegistration(bytes32,bytes32,bytes)",
        *(identifier(ORGANIZATION), identifier(SERVICE), uri(ipfs, metadata)),
        sender=operator.address,
    )
    return metadata


def organization_metadata(group: PaymentGroup) -> dict[str, Any]:
    """Return what ``snet organization metadata-init`` and ``add-group`` write."""
    client = {
        "connection_timeout": "5s",
        "request_timeout": "5s",
        "endpoints": ["http://127.0.0.1:2379"],
    }
    payment = {
        "payment_address": group.payment_address,
        "payment_expiration_threshold": group.expiration_threshold,
        "payment_channel_storage_type": "etcd",
        "payment_channel_storage_client": client,
    }
    return {
        "org_name": "My organisation",
        "org_id": ORGANIZATION,
        "org_type": "individual",
        "groups": [{"group_name": GROUP_NAME, "group_id": group.group_id, "payment": payment}],
    }


def service_metadata(group: PaymentGroup, endpoint: str) -> dict[str, Any]:
    """Return the project's template, filled in as the SDK accepts it."""
    metadata: dict[str, Any] = json.loads(METADATA.read_text(encoding="utf-8"))
    del metadata["model_ipfs_hash"]
    (published,) = metadata["groups"]
    published.pop("free_calls", None)
    published |= {
        "group_id": group.group_id,
        "endpoints": [endpoint],
        "free_call_signer_address": group.payment_address,
    }
    published["pricing"][0]["price_in_cogs"] = PRICE
    return metadata


def add_proto(ipfs: IpfsNode) -> str:
    """Keep the archive that the CLI makes of the proto's folder; return its content id."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as files:
        files.add(PROTO, PROTO.name)
    return ipfs.add(archive.getvalue())


def identifier(name: str) -> bytes:
    """Return the id of an organisation or service as the registry keeps it."""
    return name.encode().ljust(ID_BYTES, b"\0")


def uri(ipfs: IpfsNode, metadata: dict[str, Any]) -> bytes:
    """Keep metadata; return their address as the registry keeps it, to a multiple of 32 bytes."""
    address = f"ipfs://{ipfs.add(json.dumps(metadata).encode())}".encode()
    return address + bytes(-len(address) % ID_BYTES)

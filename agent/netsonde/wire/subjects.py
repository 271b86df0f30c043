"""The subjects of the streams, and the identity of a publisher: the host token in them.

The server authorises the subject of a message, not its body. So a message is believed only if
its body names the host of its subject.

    <root>.stream.flows.<host>[.<shard>]      <root>.stream.metrics.<host>
    <root>.stream.events.<host>.<kind>

Messages of a tap whose reader is in another account of the NATS server go to that account alone:

    <root>.tapped.<account>.<inbox>.<host>     imported as <root>.tapped.mine.<inbox>.<host>
"""

from __future__ import annotations

import re
import zlib

SHARDS_MAX = 1024

_STREAM = re.compile(
    r".+\.stream\.(?:flows\.([^.]+)(?:\.[0-9]+)?|metrics\.([^.]+)|events\.([^.]+)\.[^.]+)"
)


def shard_of(host: str, shards: int) -> int | None:
    """Returns the shard of a host's flow records, from 0; None if there is only one. CRC-32 is the
    same in every language and version."""
    return zlib.crc32(host.encode()) % shards if shards > 1 else None


def flows_subject(root: str, host: str, shard: int | None = None) -> str:
    """Returns the subject of a host's flow records. host: `*` for all hosts."""
    subject = f"{root}.stream.flows.{host}"
    return subject if shard is None else f"{subject}.{shard}"


def tapped_subject(root: str, account: str, inbox: str = ">") -> str:
    """Returns the subject of an account's taps. account: `mine` for the importing account."""
    return f"{root}.tapped.{account}.{inbox}"


def any_shard(subject: str) -> tuple[str, str]:
    """Returns the subject of a host's flow records without a shard, and that of every shard."""
    return subject, f"{subject}.*"


def stream_host(subject: str) -> str | None:
    """Returns the host token in the subject of a stream; None for another subject."""
    found = _STREAM.fullmatch(subject)
    return found[found.lastindex or 0] if found else None

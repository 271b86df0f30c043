"""The identity of a publisher: the host token in a subject of the streams.

The server authorises the subject of a message, not its body. So a message is believed only if
its body names the host of its subject.

    <root>.stream.flows.<host>[.<shard>]      <root>.stream.metrics.<host>
    <root>.stream.events.<host>.<kind>
"""

from __future__ import annotations

import re

_STREAM = re.compile(
    r".+\.stream\.(?:flows\.([^.]+)(?:\.[0-9]+)?|metrics\.([^.]+)|events\.([^.]+)\.[^.]+)"
)


def stream_host(subject: str) -> str | None:
    """Returns the host token in the subject of a stream; None for another subject."""
    found = _STREAM.fullmatch(subject)
    return found[found.lastindex or 0] if found else None

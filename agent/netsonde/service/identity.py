"""The names of this agent on the bus, in subjects and in its description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """host: the host token. fqdn: for people. versions: names with a dot, for the metadata."""

    host: str
    root: str
    version: str
    fqdn: str
    labels: Mapping[str, str]
    versions: Mapping[str, str]

"""Configuration changes: the keys that SIGHUP may change in a running agent."""

from __future__ import annotations

import msgspec

from ..wire.requests import CaptureOptions
from .sections import Config

_SESSION_KEYS = tuple(f"session.{key}" for key in CaptureOptions.__struct_fields__)

# A change of any other key needs a restart.
LIVE_KEYS = frozenset(
    {
        *(f"buffer.{key}" for key in ("bucket_hours", "bucket_mb", "export_dir", "export_mb")),
        "buffer.dir",
        "buffer.disk_mb",
        "buffer.max_mb",
        "capture.replay_dirs",
        "encryption.key_dirs",
        "export.biflow",
        "export.collectors",
        "export.max_message_bytes",
        "export.enterprise_number",
        "export.pace_mbps",
        "export.profile",
        "firmware.dirs",
        "firmware.max_mb",
        "firmware.rsa_pkcs1v15",
        "firmware.trusted_keys",
        "flows.encoding",
        "flows.fields",
        "flows.flow_table_size",
        "flows.labels",
        "flows.labels_mb",
        "flows.owners",
        "flows.quic_per_second",
        "flows.record_ring_size",
        "flows.tunnel",
        "flows.vxlan_ports",
        "capture.own_traffic",
        "capture.ring_mb",
        "log.level",
        "policy.allow",
        "policy.hide",
        "policy.identity",
        "metrics.interval_sec",
        "tap.rate_kbps",
        "tap.taps",
        "tap.while_sealed",
        "agent.labels",
        *_SESSION_KEYS,
    }
)


def changed_keys(old: Config, new: Config) -> list[str]:
    """Returns the dotted keys whose values differ, sorted."""
    before, after = flatten(old), flatten(new)
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def flatten(config: Config) -> dict[str, object]:
    """Returns every key with its value: `{"nats.root": "capture", …}`. Without `[session]` its
    keys are None."""
    sections: dict[str, dict[str, object] | None] = msgspec.to_builtins(config)
    return dict.fromkeys(_SESSION_KEYS) | {
        f"{section}.{key}": value
        for section, keys in sections.items()
        for key, value in (keys or {}).items()
    }

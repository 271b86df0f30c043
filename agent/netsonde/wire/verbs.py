"""The table of verbs: name, request, reply, and whether a verb changes something or is costly."""

from __future__ import annotations

from msgspec import Struct

from .replies import (
    BackendsReply,
    EncryptionReply,
    ExportReply,
    FirmwareReply,
    FlowsReply,
    MeterReply,
    MetricsReply,
    PacketsDeleteReply,
    PacketsReply,
    SchemaReply,
    StartReply,
    StatusReply,
    StopReply,
    TapReply,
)
from .requests import (
    BackendsRequest,
    EncryptionRequest,
    ExportRequest,
    FirmwareRequest,
    FlowsRequest,
    MeterRequest,
    MetricsRequest,
    PacketsDeleteRequest,
    PacketsRequest,
    Request,
    SchemaRequest,
    StartRequest,
    StatusRequest,
    StopRequest,
    TapRequest,
)


class Verb(Struct, frozen=True):
    """`changes`: audited, and kept for Request-Id. `costly`: few at a time (429)."""

    name: str
    request: type[Request]
    reply: type[Struct]
    summary: str
    changes: bool = False
    costly: bool = False

    @property
    def endpoint(self) -> str:
        """Its name in NATS service discovery, where dots are not allowed."""
        return self.name.replace(".", "-")


# fmt: off
VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("backends", BackendsRequest, BackendsReply,
             "List the capture backends and why one cannot be used", costly=True),
        Verb("start", StartRequest, StartReply, "Start the capture session", changes=True),
        Verb("stop", StopRequest, StopReply, "Stop the capture session", changes=True),
        Verb("status", StatusRequest, StatusReply, "State and counters of the session"),
        Verb("metrics", MetricsRequest, MetricsReply, "Rates over the last interval"),
        Verb("flow.meter.enable", MeterRequest, MeterReply,
             "Turn flow records on or off", changes=True),
        Verb("netflow.export.enable", ExportRequest, ExportReply,
             "Add, change or remove a collector of NetFlow or IPFIX", changes=True),
        Verb("flows", FlowsRequest, FlowsReply, "List the active flows", costly=True),
        Verb("encryption.enable", EncryptionRequest, EncryptionReply,
             "Seal the capture buffer", changes=True),
        Verb("packets", PacketsRequest, PacketsReply,
             "Retrieve packets from the capture buffer", changes=True, costly=True),
        Verb("packets.delete", PacketsDeleteRequest, PacketsDeleteReply,
             "Delete results of `packets` from the bucket", changes=True),
        Verb("tap", TapRequest, TapReply,
             "Copy packets to the caller as they are captured", changes=True, costly=True),
        Verb("firmware.verify", FirmwareRequest, FirmwareReply,
             "Check a firmware file's signature against the trusted keys", costly=True),
        Verb("schema", SchemaRequest, SchemaReply, "The AsyncAPI document of this agent"),
    )
}
# fmt: on

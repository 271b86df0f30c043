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
    PacketsReply,
    SchemaReply,
    StartReply,
    StatusReply,
    StopReply,
)
from .requests import (
    BackendsRequest,
    EncryptionRequest,
    ExportRequest,
    FirmwareRequest,
    FlowsRequest,
    MeterRequest,
    MetricsRequest,
    PacketsRequest,
    Request,
    SchemaRequest,
    StartRequest,
    StatusRequest,
    StopRequest,
)


class Verb(Struct, frozen=True, kw_only=True):
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


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            name="backends",
            request=BackendsRequest,
            reply=BackendsReply,
            summary="List the capture backends and why one cannot be used",
            costly=True,
        ),
        Verb(
            name="start",
            request=StartRequest,
            reply=StartReply,
            summary="Start the capture session",
            changes=True,
        ),
        Verb(
            name="stop",
            request=StopRequest,
            reply=StopReply,
            summary="Stop the capture session",
            changes=True,
        ),
        Verb(
            name="status",
            request=StatusRequest,
            reply=StatusReply,
            summary="State and counters of the session",
        ),
        Verb(
            name="metrics",
            request=MetricsRequest,
            reply=MetricsReply,
            summary="Rates over the last interval",
        ),
        Verb(
            name="flow.meter.enable",
            request=MeterRequest,
            reply=MeterReply,
            summary="Turn flow records on or off",
            changes=True,
        ),
        Verb(
            name="netflow.export.enable",
            request=ExportRequest,
            reply=ExportReply,
            summary="Add, change or remove a collector of NetFlow or IPFIX",
            changes=True,
        ),
        Verb(
            name="flows",
            request=FlowsRequest,
            reply=FlowsReply,
            summary="List the active flows",
            costly=True,
        ),
        Verb(
            name="encryption.enable",
            request=EncryptionRequest,
            reply=EncryptionReply,
            summary="Seal the capture buffer",
            changes=True,
        ),
        Verb(
            name="packets",
            request=PacketsRequest,
            reply=PacketsReply,
            summary="Retrieve packets from the capture buffer",
            changes=True,
            costly=True,
        ),
        Verb(
            name="firmware.verify",
            request=FirmwareRequest,
            reply=FirmwareReply,
            summary="Check a firmware file's signature against the trusted keys",
            costly=True,
        ),
        Verb(
            name="schema",
            request=SchemaRequest,
            reply=SchemaReply,
            summary="The AsyncAPI document of this agent",
        ),
    )
}

"""Limits that requesters, other hosts and files meet: a change of one is a change of behaviour."""

from __future__ import annotations

import importlib

import pytest

LIMITS = {
    "bus.embedded.THREADS_MIN": 4,
    "bus.objects.CHUNK_BYTES": 131_072,
    "bus.objects.STREAM_NOT_FOUND": 10_059,
    "bus.publisher.ENVELOPE_BYTES_MAX": 2048,
    "capture.collectors.MBPS_BYTES_PER_SEC": 125_000,
    "collect.ledger.BOOTS_MAX": 64,
    "collect.templates.REVERSE": 29_305,
    "core.capture.DRAIN_BYTES_MAX": 261_120,
    "core.capture.DRAIN_RECORDS_MAX": 1000,
    "core.packets.KEY_BYTES": 32,
    "daemon.health.CONNECTIONS_MAX": 16,
    "daemon.health.REQUEST_BYTES_MAX": 8192,
    "errors.EXIT_CONFIG": 78,
    "errors.EXIT_OK": 0,
    "errors.EXIT_PRIVILEGE": 77,
    "errors.EXIT_REFUSED": 1,
    "errors.EXIT_UNREACHABLE": 69,
    "errors.EXIT_USAGE": 2,
    "firmware.blob.BYTES_MAX": 2048,
    "firmware.cms.ATTRIBUTES_BYTES_MAX": 65_536,
    "firmware.cms.SIGNERS_MAX": 16,
    "firmware.keys.FILE_BYTES_MAX": 65_536,
    "firmware.keys.KEYS_MAX": 64,
    "firmware.keys.RSA_BITS_MIN": 2048,
    "firmware.verdict.MESSAGE_BYTES_MAX": 268_435_456,
    "firmware.verify.RUNNING_MAX": 2,
    "firmware.verify.SIGNATURE_BYTES_MAX": 262_144,
    "fleet.policies.FILE_BYTES_MAX": 1_048_576,
    "fleet.stream.HOSTS_MAX": 65_536,
    "recorder.retrieval.RUNNING_MAX": 2,
    "service.events.QUEUE_EVENTS_MAX": 1024,
    "service.policy.NAME_MAX": 256,
    "service.audit.REQUEST_BYTES_MAX": 4096,
    "service.replays.ENTRIES_MAX": 4096,
    "service.responder.COSTLY_MAX": 8,
    "service.responder.HANDLED_MAX": 512,
    "service.responder.HANDLED_OF_VERB_MAX": 256,
    "bus.nats_client.LARGE_BYTES": 131_072,
    "service.responder.LARGE_BODY_BYTES_BURST": 8_388_608,
    "service.responder.LARGE_BODY_BYTES_PER_SEC": 1_048_576,
    "service.responder.RECEIVED_BYTES_MAX": 33_554_432,
    "service.responder.RECEIVED_OF_VERB_MAX": 4096,
    "service.responder.REPLY_HEADROOM_BYTES": 4096,
    "spool.pipeline.WINDOW_MESSAGES": 64,
    "spool.spool.CACHED_BYTES_MAX": 16_777_216,
    "spool.spool.SEGMENT_BYTES_MAX": 8_388_608,
    "spool.spool.SEGMENT_BYTES_MIN": 524_288,
    "spool.spool.SEGMENTS_WANTED": 16,
    "spool.streams.DUPLICATE_WINDOW_SEC": 600,
    "wire.envelope.ERROR_HEADER_MAX": 512,
    "wire.envelope.REQUEST_ID_MAX": 256,
    "wire.instant.NS_PER_SEC": 1_000_000_000,
    "wire.selector.LENGTH_MAX": 4096,
}


@pytest.mark.parametrize("name", LIMITS)
def test_limit(name: str) -> None:
    module, _, constant = name.rpartition(".")
    assert getattr(importlib.import_module(f"netsonde.{module}"), constant) == LIMITS[name]

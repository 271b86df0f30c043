"""The latency of `status` while the agent verifies 2 GiB of firmware.

The file is sparse, so disk speed does not matter. Hashing runs in a thread next to the event
loop. The agent uses all cores, as under its systemd unit. The signature is valid, in minisign's
format, by a key made here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from pathlib import Path

import nats
from agent_replay import ask, run_agent, serve, wait_until_ready
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pinned import CORES
from workbench import OUT

FIRMWARE_BYTES = 2 << 30
REQUESTS_MIN = 200  # fewer requests make a 99th percentile meaningless
PAUSE_SEC = 0.002
VERIFY_WITHIN_SEC = 120.0


def measure_status_sec() -> list[float]:
    """Times of the status requests that were answered during the verification."""
    directory = OUT / "firmware"
    make_files(directory)
    more = (
        f"[firmware]\ndirs = [{json.dumps(str(directory))}]\n"
        f"trusted_keys = {json.dumps(str(directory / 'trusted'))}\n"
    )
    # Explicit, because the calling process may be pinned to some cores.
    every = ("taskset", "-c", ",".join(map(str, CORES)))
    with serve(directory / "nats") as url, run_agent(url, directory, "json", more, pin=every):
        return asyncio.run(time_status(url))


def make_files(directory: Path) -> None:
    (directory / "trusted").mkdir(parents=True, exist_ok=True)
    hasher, zeros = hashlib.blake2b(), bytes(1 << 20)
    with (directory / "image.bin").open("wb") as image:
        image.truncate(FIRMWARE_BYTES)
    for _ in range(FIRMWARE_BYTES // len(zeros)):
        hasher.update(zeros)
    key = Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "trusted" / "key.pem").write_bytes(pem)
    signature = key.sign(hasher.digest())
    lines = (
        b"untrusted comment: bench",
        base64.b64encode(b"ED" + bytes(8) + signature),
        b"trusted comment: bench",
        base64.b64encode(key.sign(signature + b"bench")),
    )
    (directory / "image.sig").write_bytes(b"\n".join(lines) + b"\n")


async def time_status(url: str) -> list[float]:
    client = await nats.connect(url)
    try:
        await wait_until_ready(client)
        body = {"firmware_path": "image.bin", "signature_path": "image.sig"}
        verifying = asyncio.create_task(ask(client, "firmware.verify", body, VERIFY_WITHIN_SEC))
        taken = []
        while not verifying.done():
            begin = time.perf_counter()
            await ask(client, "status", {}, 5.0)
            taken.append(time.perf_counter() - begin)
            await asyncio.sleep(PAUSE_SEC)
        reply = await verifying
    finally:
        await client.close()
    if not reply["valid"] or len(taken) < REQUESTS_MIN:
        raise RuntimeError(f"{len(taken)} requests while this was verified: {reply}")
    return taken

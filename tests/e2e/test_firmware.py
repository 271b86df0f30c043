"""`firmware.verify` over the bus and on the command line, with large files and many requests."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import COMMAND, Agent, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from signing import Signers

LARGE_BYTES = 2 << 30
MIDDLING_BYTES = 256 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    """Adds two sparse files, which use no disk space: a large one and a middling one."""
    signers = Signers(tmp_path_factory.mktemp("firmware")).make_keys()
    for name, size in (("large", LARGE_BYTES), ("middling", MIDDLING_BYTES)):
        path = signers.firmware / f"{name}.bin"
        path.touch()
        os.truncate(path, size)
        signers.run("minisign", "-S", "-s", "mini.key", "-m", path, "-x", "made")
        signers.write(signers.made(), f"{name}.sig")
    return signers


@pytest.fixture
def signers(made: Signers) -> Iterator[Signers]:
    """The module's signers. Removes the files that the test adds."""
    kept = set(made.firmware.iterdir())
    yield made
    for path in set(made.firmware.iterdir()) - kept:
        path.unlink()


@pytest.fixture
def verifier(fleet: Fleet, signers: Signers) -> Agent:
    firmware = {"dirs": [signers.firmware], "trusted_keys": signers.trusted}
    return fleet.start("alpha", firmware=firmware, http={"listen": ""})


def body(firmware: str | Path, signature: str | Path = "image.sig") -> dict[str, Any]:
    return {"firmware_path": str(firmware), "signature_path": str(signature)}


async def test_reply_has_the_documented_fields(verifier: Agent, bus: Bus, signers: Signers) -> None:
    signers.write(signers.by_openssl("ed25519"))
    reply = await bus.ok("firmware.verify", body(signers.image))
    digest = hashlib.sha256(signers.image.read_bytes()).hexdigest()
    assert reply == {
        "host": "alpha",
        "valid": True,
        "signature_valid": True,
        "firmware_hash": digest,
        "key_id": key_id(signers.trusted / "ed25519.pem"),
        "algorithm": "Ed25519",
        "message": reply["message"],
    }
    signers.write(signers.by_openssl("p256"), "p256.sig")
    (signers.firmware / "other.bin").write_bytes(b"other")
    refused = await bus.request("firmware.verify", body("other.bin", "p256.sig"))
    assert refused.code == 200
    assert (refused.body["valid"], refused.body["signature_valid"]) == (False, False)
    assert refused.body["firmware_hash"] == hashlib.sha256(b"other").hexdigest()
    assert refused.body["message"]
    assert "key_id" not in refused.body
    # No session was needed or started.
    assert (await bus.request("status")).code == 204


def key_id(public: Path) -> str:
    """Computes the id by the documented command."""
    command = ["openssl", "pkey", "-pubin", "-in", str(public), "-outform", "DER"]
    spki = subprocess.run(command, check=True, capture_output=True).stdout
    return hashlib.sha256(spki).hexdigest()[:16]


async def test_wrong_paths_and_bodies_are_rejected(
    verifier: Agent, bus: Bus, signers: Signers
) -> None:
    signers.write(signers.by_openssl("ed25519"))
    outside = signers.directory / "outside.bin"
    outside.write_bytes(b"secret")
    (signers.firmware / "link.bin").symlink_to(outside)
    os.mkfifo(signers.firmware / "fifo")
    refused = {}
    for path in (outside, "../outside.bin", "../absent", "/absent", "link.bin", "/dev/zero"):
        for asked in (body(path), body("image.bin", path)):
            reply = await bus.request("firmware.verify", asked)
            assert (reply.code, reply.error) == (403, "path_not_allowed"), (path, reply)
            refused[reply.body["detail"]] = path
    assert len(refused) == 1, "every path outside gets the same text"
    for path in ("absent.bin", "fifo", ".", "image.bin/x", "x" * 4000):
        for asked in (body(path), body("image.bin", path)):
            reply = await bus.request("firmware.verify", asked)
            assert (reply.code, reply.error) == (404, "not_found"), (path, reply)
    for wrong in (
        {},
        {"firmware_path": "image.bin"},
        body("image.bin", ""),
        body(""),
        body("x" * 5000),
        {**body("image.bin"), "signature_path": 5},
        {**body("image.bin"), "key": "-----BEGIN PUBLIC KEY-----"},
    ):
        reply = await bus.request("firmware.verify", wrong)
        assert (reply.code, reply.error) == (422, "invalid_request"), wrong


async def test_every_path_is_outside_without_configured_directories(
    alpha: Agent, bus: Bus, signers: Signers
) -> None:
    reply = await bus.request("firmware.verify", body(signers.image))
    assert (reply.code, reply.error) == (403, "path_not_allowed")


async def test_trusted_keys_are_read_for_each_request(
    verifier: Agent, bus: Bus, signers: Signers
) -> None:
    """A withdrawn key stops working without a signal or a restart."""
    signers.write(signers.by_openssl("p384", "sha384"))
    assert (await bus.ok("firmware.verify", body("image.bin")))["valid"]
    key = signers.trusted / "p384.pem"
    withdrawn = key.rename(signers.directory / "withdrawn.pem")
    try:
        assert not (await bus.ok("firmware.verify", body("image.bin")))["valid"]
    finally:
        withdrawn.rename(key)


async def test_status_replies_while_a_large_file_is_verified(
    verifier: Agent, bus: Bus, signers: Signers
) -> None:
    asking = asyncio.create_task(
        bus.request("firmware.verify", body("large.bin", "large.sig"), timeout_sec=120)
    )
    answered = 0
    while not asking.done():
        assert (await bus.request("status")).code == 204
        answered += 1
    assert (await asking).body["valid"] is True
    assert answered > 20
    assert resident_kib(verifier.pid) < 300 * 1024


async def seconds_to_reply(bus: Bus, host: str) -> float:
    sent = time.monotonic()
    assert (await bus.request("status", host=host)).code == 204
    return time.monotonic() - sent


async def test_status_replies_while_ed25519_checks_a_file_in_memory(
    fleet: Fleet, verifier: Agent, bus: Bus, signers: Signers
) -> None:
    """The limit for Ed25519 over the file itself is MIDDLING_BYTES. Compared with an agent that has
    no work: on a busy machine each reply takes longer."""
    idle = fleet.start("idle")
    middling = signers.firmware / "middling.bin"
    signers.run("minisign", "-S", "-l", "-s", "mini.key", "-m", middling, "-x", "made")
    signers.write(signers.made(), "pure.sig")
    asking = asyncio.create_task(
        bus.request("firmware.verify", body("middling.bin", "pure.sig"), timeout_sec=120)
    )
    slowest = [0.0, 0.0]
    while not asking.done():
        hosts = (verifier.host, idle.host)
        took = await asyncio.gather(*(seconds_to_reply(bus, host) for host in hosts))
        slowest = [max(pair) for pair in zip(slowest, took, strict=True)]
    reply = await asking
    assert (reply.body["valid"], reply.body["algorithm"]) == (True, "minisign-Ed25519")
    assert slowest[0] < slowest[1] + 0.3
    assert resident_kib(verifier.pid) < 600 * 1024


async def test_ed25519_over_a_file_above_the_limit_is_refused(
    verifier: Agent, bus: Bus, signers: Signers
) -> None:
    above = signers.firmware / "above.bin"
    above.touch()
    os.truncate(above, MIDDLING_BYTES + 1)
    signers.write(signers.by_openssl("ed25519"))
    reply = await bus.ok("firmware.verify", body("above.bin"))
    assert reply["valid"] is False
    assert "too large for Ed25519" in reply["message"]
    assert len(reply["firmware_hash"]) == 64
    assert resident_kib(verifier.pid) < 600 * 1024


def resident_kib(pid: int) -> int:
    """Returns the peak."""
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1])


async def test_a_third_verification_is_rejected(
    verifier: Agent, bus: Bus, signers: Signers
) -> None:
    asked = body("middling.bin", "middling.sig")
    replies = await asyncio.gather(
        *(bus.request("firmware.verify", asked, timeout_sec=120) for _ in range(6))
    )
    codes = sorted(reply.code for reply in replies)
    assert codes[:2] == [200, 200]
    assert set(codes[2:]) == {429}
    assert (await bus.request("firmware.verify", asked, timeout_sec=120)).code == 200


async def test_shutdown_ends_a_running_verification(
    verifier: Agent, bus: Bus, signers: Signers
) -> None:
    large = signers.firmware / "large.bin"
    asking = asyncio.create_task(
        bus.request("firmware.verify", body("large.bin", "large.sig"), timeout_sec=60)
    )
    await eventually(lambda: str(large) in opened(verifier.pid), "the agent to open the file")
    assert verifier.terminate() == 0
    reply = await asking
    assert (reply.code, reply.error) == (503, "draining")


def opened(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return found


def test_command_prints_the_verdict_and_sets_the_exit_code(
    verifier: Agent, signers: Signers
) -> None:
    signers.write(signers.by_cms("p256"))
    (signers.firmware / "other.bin").write_bytes(b"other")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        url = str(verifier.config["nats"]["servers"][0])
        return subprocess.run(
            [str(COMMAND), "firmware", *client_flags(url), *arguments],
            capture_output=True,
            text=True,
        )

    good = run("image.bin", "image.sig")
    assert good.returncode == 0, good.stderr
    assert "CMS-ECDSA-P256-SHA256" in good.stdout
    bad = run("other.bin", "image.sig", "--json")
    assert bad.returncode == 1
    assert '"valid":false' in bad.stdout
    absent = run("absent.bin", "image.sig")
    assert absent.returncode == 1
    assert "not_found" in absent.stderr

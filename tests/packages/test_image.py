"""The container image, built from a local Debian root and run as documented."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import machine
import pytest
from installed import DIST, Installed, build

from agents import COMMAND
from deadlines import eventually_now
from netns import Wire
from servers import NatsServer

CAP_NET_RAW = 1 << 13
USER_ID = "747"
# The documented options. LIMITS fits the engine to the namespaces of a test.
OPTIONS = ("--read-only", "--cap-drop=all", "--cap-add=NET_RAW")
# An engine raises its own limits, which a test is not allowed to.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--cgroups=disabled")
IMPORT = """
container="$(buildah from scratch)"
cp -a "$1/." "$(buildah mount "$container")/"
buildah umount "$container"
buildah commit --quiet --rm "$container" localhost/debian:12-slim
buildah build --quiet --isolation chroot --network host --tag netsonde \
  --build-arg BASE=localhost/debian:12-slim "$2"
"""


class Engine:
    """buildah and podman with their files in one directory, and a control group file system of
    version 2 in a mount namespace."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        storage = directory / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{directory}/run"\n'
            f'graphroot = "{directory}/images"\n'
        )
        self._prefix = (
            "env", f"CONTAINERS_STORAGE_CONF={storage}", "unshare", "--mount", "--propagation",
            "private", "sh", "-euc", 'mount -t cgroup2 none /sys/fs/cgroup; exec "$@"', "sh",
        )  # fmt: skip

    def podman(self, *words: str) -> list[str]:
        own = ("--cgroup-manager=cgroupfs", f"--tmpdir={self.directory}/tmp")
        return [*self._prefix, "podman", *own, *words]

    def create(self, debian: Path, context: Path) -> None:
        words = [*self._prefix, "sh", "-euc", IMPORT, "sh", str(debian), str(context)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    build()
    engine = Engine(tmp_path_factory.mktemp("containers"))
    engine.create(machine.create(tmp_path_factory), DIST / "container")
    yield engine
    subprocess.run(["rm", "-rf", engine.directory], check=True)


def test_image_captures_with_one_capability_and_a_read_only_root(
    engine: Engine, wire: Wire, nats_server: NatsServer, tmp_path: Path
) -> None:
    name = f"netsonde-test-{os.getpid()}"
    servers = f"NETSONDE__NATS__SERVERS={nats_server.url}"
    options = (*OPTIONS, *LIMITS, f"--network=ns:/run/netns/{wire.host}", f"--env={servers}")
    doctor = engine.podman("run", "--rm", *options, "netsonde")
    checks = Installed(*doctor).doctor()
    assert "bad" not in checks.values(), checks
    assert (checks["capture"], checks["af_packet"], checks["xdp"]) == ("ok", "ok", "missing")

    netsonde = Installed("env", servers, COMMAND)
    agent = engine.podman("run", "--rm", f"--name={name}", *options, "netsonde")
    with netsonde.agent(tmp_path / "log", agent):
        inspect = engine.podman("inspect", "--format={{.State.Pid}}", name)
        pid = int(subprocess.run(inspect, check=True, capture_output=True, text=True).stdout)
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        assert status["Uid"].split() == [USER_ID] * 4
        assert status["NoNewPrivs"] == "1"
        sets = {int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb")}
        assert sets == {CAP_NET_RAW}
        netsonde.capture(wire, "af_packet")
    eventually_now(lambda: not Path(f"/proc/{pid}").exists(), "the container to end")

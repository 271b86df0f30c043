"""A Debian 12 machine in namespaces, with systemd as its first process.

`Debian.create` makes the root once. Each machine adds a writable overlay to it, so the root stays
clean. A machine has process, mount, host name and control group namespaces, and shares the network
namespace of the thread that boots it. The machine cannot change kernel parameters.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deadlines import eventually_now

# Programs of a Debian server that tests use. Python is not among them: apt installs that.
PACKAGES = ("systemd", "bash-completion", "dbus", "iproute2", "man-db")
# A mirror may fail for a moment. The root keeps this setting for its own apt.
PATIENT_APT = '--aptopt=Acquire::Retries "8"'

# The network namespace of the test run, before a test enters another one.
_OUTSIDE = os.open("/proc/self/ns/net", os.O_RDONLY)

# Arguments: lower root, directory for the overlay, control group.
_BOOT = """
set -eu
lower=$1 stage=$2 group=$3
mkdir -p "$stage/changes" "$stage/work" "$stage/root" "$stage/groups"
mount -t cgroup2 none "$stage/groups"
mkdir "$stage/groups/$group"
echo $$ > "$stage/groups/$group/cgroup.procs"
umount "$stage/groups"
mount -t overlay -o "lowerdir=$lower,upperdir=$stage/changes,workdir=$stage/work" none "$stage/root"
cd "$stage/root"
exec unshare --cgroup --pid --fork --kill-child --uts --ipc --mount-proc=proc sh -euc '
  mount --bind proc/sys proc/sys
  mount -o remount,bind,ro proc/sys
  mount -t sysfs -o ro none sys
  mount -t cgroup2 none sys/fs/cgroup
  mount -t tmpfs none run
  mount -t tmpfs -o mode=755 none dev
  for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
  done
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
  ln -s pts/ptmx dev/ptmx
  echo machine > etc/hostname
  exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/sbin/chroot . \
    /lib/systemd/systemd
'
"""


def create(factory: pytest.TempPathFactory) -> Path:
    """Returns the root of a Debian 12 that nothing was installed into. The workers of one test run
    share it."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root = shared / "debian"
    with (shared / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            command = ["mmdebstrap", "--quiet", "--variant=minbase", "--skip=cleanup/apt/lists"]
            command += [f"--include={','.join(PACKAGES)}", PATIENT_APT, "bookworm", f"{root}.new"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            os.rename(f"{root}.new", root)
    return root


class Machine:
    def __init__(self, lower: Path) -> None:
        self.stage = Path(tempfile.mkdtemp(prefix="netsonde-machine-"))
        self.lower = lower
        self.changes = self.stage / "changes"  # copy files into it before the boot
        self.changes.mkdir(mode=0o755)
        self.stage.chmod(0o755)
        self._group = f"netsonde-machine-{os.getpid()}-{self.stage.name[-8:]}"
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOOT, "sh"]
        command += [str(self.lower), str(self.stage), self._group]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        eventually_now(self._started, "systemd to start the machine")

    def _started(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the machine did not boot"
        # "degraded": a unit failed that needs a kernel parameter or a device.
        state = self.attempt("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    @property
    def pid(self) -> int:
        """The process id of the machine's systemd, or 0 before it runs."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        words = children.read_text().split()
        return int(words[0]) if words else 0

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command that run it in the machine as root."""
        return (
            "nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid",
            "--cgroup", "--root", "--wd=/", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root", "TERM=xterm", "DEBIAN_FRONTEND=noninteractive",
        )  # fmt: skip

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.prefix, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def run(self, *words: str) -> str:
        done = self.attempt(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout

    def apt(self, *words: str) -> None:
        """Runs apt-get in the network of the test run, where it can download."""
        outside = ("nsenter", f"--net=/proc/self/fd/{_OUTSIDE}")
        inside = [word for word in self.prefix if word != "--net"]
        done = subprocess.run(
            [*outside, *inside, "apt-get", "-y", "-qq", *words], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, pass_fds=[_OUTSIDE],
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def journal(self) -> str:
        return self.attempt("journalctl", "--no-pager", "-b", "-u", "netsonde").stdout

    def destroy(self) -> None:
        if self._process is not None:
            self._process.kill()  # --kill-child ends the machine's first process, and so all
            self._process.wait()
        groups = self.stage / "groups"
        groups.mkdir(exist_ok=True)
        eventually_now(self._removed_groups, "the machine's control groups to be empty")
        shutil.rmtree(self.stage)

    def _removed_groups(self) -> bool:
        """Removes the control groups. The kernel refuses while a killed process still ends."""
        remove = "find $2 -depth -type d -exec rmdir {} +"
        script = f"mount -t cgroup2 none $1; [ ! -d $2 ] || {remove}"
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        groups = self.stage / "groups"
        done = subprocess.run([*enter, groups, groups / self._group], capture_output=True)
        return done.returncode == 0


@contextlib.contextmanager
def booted(lower: Path, *files: Path) -> Iterator[Machine]:
    """Boots a machine that has the files in /srv."""
    machine = Machine(lower)
    try:
        (machine.changes / "srv").mkdir()
        for file in files:
            shutil.copy(file, machine.changes / "srv" / file.name)
        machine.boot()
        yield machine
    finally:
        machine.destroy()

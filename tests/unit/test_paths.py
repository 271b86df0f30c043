"""Files that requests name: only regular ones, only below allowed directories."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from deadlines import PATIENCE_SEC
from netsonde.config.paths import NotAFileError, is_link_below, open_below
from netsonde.errors import PathNotAllowed


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    directory = tmp_path / "allowed"
    (directory / "below").mkdir(parents=True)
    (directory / "a.pcap").write_bytes(b"a")
    (directory / "below" / "b.pcap").write_bytes(b"b")
    (tmp_path / "secret").write_bytes(b"secret")
    (directory / "link").symlink_to(tmp_path / "secret")
    (directory / "inside").symlink_to("a.pcap")
    (directory / "linked").symlink_to(tmp_path)
    os.mkfifo(directory / "fifo")
    return directory


def content(directories: list[Path], path: str) -> bytes:
    file = open_below([str(directory) for directory in directories], path)
    try:
        return os.read(file, 100)
    finally:
        os.close(file)


def test_relative_and_absolute(allowed: Path) -> None:
    assert content([allowed], "a.pcap") == b"a"
    assert content([allowed], "below/b.pcap") == b"b"
    assert content([allowed], "below/../a.pcap") == b"a"
    assert content([allowed], str(allowed / "below" / "b.pcap")) == b"b"


def test_what_is_itself_a_link_can_be_told(allowed: Path, tmp_path: Path) -> None:
    """As long as nothing on the way there is one, and it lies below."""

    def told(path: str | Path) -> bool:
        return is_link_below([str(tmp_path / "absent"), str(allowed)], str(path))

    assert [name for name in sorted(os.listdir(allowed)) if told(name)] == [
        "inside",
        "link",
        "linked",
    ]
    assert told(allowed / "below" / ".." / "link")
    (tmp_path / "outside").symlink_to("secret")
    for path in ("missing", "../outside", tmp_path / "outside", "linked/outside", "li\0nk"):
        assert not told(path), path


def test_the_second_directory_is_tried(allowed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.pcap").write_bytes(b"c")
    assert content([allowed, other], "c.pcap") == b"c"
    assert content([tmp_path / "absent", allowed], "a.pcap") == b"a"


def test_the_directory_itself_may_be_reached_by_a_link(allowed: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(allowed)
    assert content([alias], str(allowed / "a.pcap")) == b"a"
    assert content([alias], str(alias / "a.pcap")) == b"a"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "below/../../secret",
        "link",
        "inside",
        "linked/secret",
        "/etc/passwd",
        "/proc/self/mem",
    ],
)
def test_outside_is_one_refusal(allowed: Path, path: str) -> None:
    with pytest.raises(PathNotAllowed):
        content([allowed], path)


def test_an_absolute_path_cannot_climb_out(allowed: Path) -> None:
    with pytest.raises(PathNotAllowed):
        content([allowed], f"{allowed}/../secret")
    with pytest.raises(PathNotAllowed):
        content([allowed], f"{allowed}x/secret")


def test_nothing_is_allowed_without_directories() -> None:
    with pytest.raises(PathNotAllowed):
        open_below([], "a.pcap")


@pytest.mark.parametrize(
    "path", ["absent.pcap", "a.pcap/x", ".", "below", "fifo", "", "a\0b", "x" * 5000]
)
def test_inside_but_no_file(allowed: Path, path: str) -> None:
    with pytest.raises(NotAFileError):
        content([allowed], path)


def test_a_fifo_does_not_hang_and_leaks_nothing(allowed: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(NotAFileError):
            content([allowed], "fifo")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_device_and_a_socket_are_no_files(allowed: Path) -> None:
    os.mknod(allowed / "zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(allowed / "socket"))
        for name in ("zero", "socket"):
            with pytest.raises(NotAFileError):
                content([allowed], name)


@pytest.mark.parametrize("path", ["\ud800", "a\udc80", "caf\u00e9", "%00", "~/x", "//etc/passwd"])
def test_odd_spellings_are_refused_in_order(allowed: Path, path: str) -> None:
    with pytest.raises((NotAFileError, PathNotAllowed)):
        content([allowed], path)


def test_nobody_can_slip_a_link_in_between(allowed: Path, tmp_path: Path) -> None:
    """One thread swaps a directory and a link to the outside as fast as it can; whatever the
    moment of an open, it gives the inside's content or a refusal."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.pcap").write_bytes(b"secret")
    (allowed / "trap").symlink_to(outside)
    done = threading.Event()

    def swap() -> None:
        exchange = ctypes.CDLL(None).renameat2
        one, other = os.fsencode(allowed / "below"), os.fsencode(allowed / "trap")
        while not done.is_set():
            assert exchange(-100, one, -100, other, 2) == 0  # AT_FDCWD, RENAME_EXCHANGE

    thread = threading.Thread(target=swap)
    thread.start()
    seen: Counter[str] = Counter()
    try:
        deadline = time.monotonic() + PATIENCE_SEC
        while time.monotonic() < deadline and not {"read", "refused"} <= seen.keys():
            for path in ("below/b.pcap", "below/../below/b.pcap", f"{allowed}/below/b.pcap"):
                try:
                    assert content([allowed], path) == b"b"
                    seen["read"] += 1
                except PathNotAllowed:
                    seen["refused"] += 1
                except NotAFileError as error:
                    seen[str(error)] += 1
    finally:
        done.set()
        thread.join()
    assert seen["read"] > 0
    assert seen["refused"] > 0

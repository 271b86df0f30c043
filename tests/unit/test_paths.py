"""Files named in requests: regular files below allowed directories only."""

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

from deadlines import TIMEOUT_SEC
from netsonde.config.paths import NotAFileError, is_link_below, open_below
from netsonde.errors import PathNotAllowed
from processes import descriptors


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


def test_relative_and_absolute_paths_open(allowed: Path) -> None:
    assert content([allowed], "a.pcap") == b"a"
    assert content([allowed], "below/b.pcap") == b"b"
    assert content([allowed], "below/../a.pcap") == b"a"
    assert content([allowed], str(allowed / "below" / "b.pcap")) == b"b"


def test_is_symlink_reports_links_below_the_directory(allowed: Path, tmp_path: Path) -> None:
    """Only if no directory on the way is a link and the link lies below."""

    def is_link(path: str | Path) -> bool:
        return is_link_below([str(tmp_path / "absent"), str(allowed)], str(path))

    assert [name for name in sorted(os.listdir(allowed)) if is_link(name)] == [
        "inside",
        "link",
        "linked",
    ]
    assert is_link(allowed / "below" / ".." / "link")
    (tmp_path / "outside").symlink_to("secret")
    for path in ("missing", "../outside", tmp_path / "outside", "linked/outside", "li\0nk"):
        assert not is_link(path), path


def test_second_directory_is_tried(allowed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.pcap").write_bytes(b"c")
    assert content([allowed, other], "c.pcap") == b"c"
    assert content([tmp_path / "absent", allowed], "a.pcap") == b"a"


def test_allowed_directory_may_be_a_link(allowed: Path, tmp_path: Path) -> None:
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
def test_path_outside_is_rejected_with_one_error(allowed: Path, path: str) -> None:
    with pytest.raises(PathNotAllowed):
        content([allowed], path)


def test_absolute_path_with_dots_is_rejected(allowed: Path) -> None:
    with pytest.raises(PathNotAllowed):
        content([allowed], f"{allowed}/../secret")
    with pytest.raises(PathNotAllowed):
        content([allowed], f"{allowed}x/secret")


def test_without_directories_every_path_is_rejected() -> None:
    with pytest.raises(PathNotAllowed):
        open_below([], "a.pcap")


@pytest.mark.parametrize(
    "path", ["absent.pcap", "a.pcap/x", ".", "below", "fifo", "", "a\0b", "x" * 5000]
)
def test_non_file_inside_is_rejected(allowed: Path, path: str) -> None:
    with pytest.raises(NotAFileError):
        content([allowed], path)


def test_fifo_does_not_block_or_leak(allowed: Path) -> None:
    before = descriptors()
    for _ in range(5):
        with pytest.raises(NotAFileError):
            content([allowed], "fifo")
    assert not descriptors() - before


def test_device_and_socket_are_rejected(allowed: Path) -> None:
    os.mknod(allowed / "zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(allowed / "socket"))
        for name in ("zero", "socket"):
            with pytest.raises(NotAFileError):
                content([allowed], name)


@pytest.mark.parametrize("path", ["\ud800", "a\udc80", "caf\u00e9", "%00", "~/x", "//etc/passwd"])
def test_malformed_paths_are_rejected(allowed: Path, path: str) -> None:
    with pytest.raises((NotAFileError, PathNotAllowed)):
        content([allowed], path)


def test_link_swapped_in_during_open_is_never_followed(allowed: Path, tmp_path: Path) -> None:
    """A thread swaps a directory with a link to the outside as fast as it can. Each open reads
    the file inside or is rejected."""
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
        deadline = time.monotonic() + TIMEOUT_SEC
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


def test_the_reason_is_named(allowed: Path) -> None:
    for path, reason in (
        (str(allowed / "absent"), "no such file"),
        (str(allowed / "a.pcap" / "below"), "no such file"),
        (str(allowed / ("x" * 300)), "file name too long"),
    ):
        with pytest.raises(NotAFileError, match=reason):
            content([allowed], path)

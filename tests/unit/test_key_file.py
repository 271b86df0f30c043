"""The file of a sealing key: its owner, its mode and its exact content."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from netsonde.errors import InvalidKey, PathNotAllowed
from netsonde.recorder.key_file import read_key
from processes import descriptors

KEY = bytes(range(1, 33))
MIXED = "0123456789abcdefABCDEF0123456789" * 2


def put(directory: Path, content: bytes, *, mode: int = 0o600) -> None:
    (directory / "key").write_bytes(content)
    (directory / "key").chmod(mode)


def status(*, uid: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, 0, 32, 0, 0, 0))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (KEY, KEY),
        (b"\n" * 32, b"\n" * 32),
        (KEY.hex().encode(), KEY),
        (KEY.hex().upper().encode() + b"\n", KEY),
        (KEY.hex().encode() + b"\r\n", KEY),
        (MIXED.encode(), bytes.fromhex(MIXED)),
    ],
    ids=["bytes", "line ends", "hex", "newline", "carriage return", "every digit"],
)
def test_a_key_is_bytes_or_hexadecimal(tmp_path: Path, content: bytes, key: bytes) -> None:
    put(tmp_path, content)
    assert read_key([str(tmp_path)], "key") == key


@pytest.mark.parametrize(
    "content",
    [
        b"",
        KEY[:31],
        KEY + b"\n",
        KEY.hex().encode()[:63],
        KEY.hex().encode() + b"0",
        KEY.hex().encode() + b"\r",
        KEY.hex().encode() + b"\n\n",
        KEY.hex().encode() + b"\r\n\n",
        KEY.hex().encode() + b" " * 10_000,
        *(KEY.hex().encode()[:63] + bytes([wrong]) for wrong in b"/:@G`g\xb0\x00"),
        b"g" + KEY.hex().encode()[1:],
    ],
)
def test_anything_else_is_rejected(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, content)
    with pytest.raises(InvalidKey):
        read_key([str(tmp_path)], "key")


@pytest.mark.parametrize("mode", [1 << bit for bit in range(6)], ids=oct)
def test_a_file_that_others_may_access_is_rejected(tmp_path: Path, mode: int) -> None:
    put(tmp_path, KEY, mode=0o600 | mode)
    with pytest.raises(InvalidKey):
        read_key([str(tmp_path)], "key")


@pytest.mark.parametrize(
    ("uid", "mode", "accepted"),
    [(1000, 0o600, True), (0, 0o600, True), (1000, 0o700, True), (1001, 0o600, False)],
)
def test_the_owner_is_the_agent_or_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, mode: int, accepted: bool
) -> None:
    put(tmp_path, KEY)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "fstat", lambda file: status(uid=uid, mode=mode))
    if accepted:
        assert read_key([str(tmp_path)], "key") == KEY
    else:
        with pytest.raises(InvalidKey):
            read_key([str(tmp_path)], "key")


def test_a_link_is_an_invalid_key_and_a_path_outside_is_not_allowed(
    tmp_path: Path,
) -> None:
    put(tmp_path, KEY)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(InvalidKey):
        read_key([str(tmp_path)], "link")
    with pytest.raises(InvalidKey):
        read_key([str(tmp_path)], "absent")
    with pytest.raises(PathNotAllowed):
        read_key([str(tmp_path)], "../key")


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = descriptors()
    for mode in (0o600, 0o640):
        put(tmp_path, KEY, mode=mode)
        for _ in range(3):
            try:
                read_key([str(tmp_path)], "key")
            except InvalidKey:
                continue
    assert not descriptors() - before

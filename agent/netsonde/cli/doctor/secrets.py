"""Checks of files with keys and credentials: present, valid, closed to other users."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ...bus.connection import tls_context
from ...bus.credentials import Login
from ...config.masking import mask
from ...config.paths import access_fault
from ...config.sections import NatsSection
from ...errors import EXIT_CONFIG, ConfigError
from .finding import Finding, Subject, command, owner

SERVER_DIRECTORY = "/etc/nats/netsonde"  # where deploy/nats/README.md puts the server's files


def examine_login(subject: Subject) -> Iterator[Finding]:
    """Checks the files of [nats] that hold credentials."""
    nats = subject.settings.nats
    for key in ("creds", "nkey", "password_file", "token_file", "tls_key"):
        path = str(getattr(nats, key))
        if path:
            yield _examine_secret(subject, key, path)
    yield from _examine_certificates(nats)
    if any(mask(server) != server for server in nats.servers):
        yield _examine_configuration(subject.path)


def _examine_certificates(nats: NatsSection) -> Iterator[Finding]:
    paths = {key: str(getattr(nats, key)) for key in ("tls_ca", "tls_cert")}
    for key, path in paths.items():
        if path and not os.access(path, os.R_OK):
            what = "no read permission" if os.path.exists(path) else "no such file"
            detail, repair = f"{path}: {what}", _install_certificate(path)
            yield Finding(f"nats.{key}", "bad", detail, EXIT_CONFIG, repair)
            return
    try:
        tls_context(nats)
    except ConfigError as error:
        repair = " && ".join(_install_certificate(path) for path in paths.values() if path)
        yield Finding("nats.tls", "bad", error.detail, EXIT_CONFIG, repair)
    else:
        for key, path in paths.items():
            if path:
                yield Finding(f"nats.{key}", "ok", path)


def _install_certificate(path: str) -> str:
    source = f"{SERVER_DIRECTORY}/{os.path.basename(path)}"
    return command("install", "-m", "0644", source, path)


def _examine_secret(subject: Subject, key: str, path: str) -> Finding:
    from msgspec import structs

    alone = dict.fromkeys(("creds", "nkey", "user", "password_file", "token_file"), "")
    alone |= {"tls_cert": "", "tls_key": "", key: path}
    try:
        _ = Login(structs.replace(subject.settings.nats, **alone)).options
    except ConfigError as error:
        detail = error.detail.removeprefix(f"nats.{key}: ")
        return Finding(f"nats.{key}", "bad", detail, EXIT_CONFIG, _mend(subject, path))
    return Finding(f"nats.{key}", "ok", path)


def _mend(subject: Subject, path: str) -> str:
    """Returns the command for a file that is missing, damaged, or open to others."""
    closing = closing_command(path)
    if closing:
        return closing
    user, _, group = owner().partition(":")
    source = f"{SERVER_DIRECTORY}/agents/{subject.settings.host}.nk"
    return command("install", "-m", "0600", "-o", user, "-g", group, source, path)


def closing_command(path: str) -> str:
    """Returns the command that closes a file to other users. Empty if it is closed or missing."""
    any_owner = is_root()
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if not stat.S_ISREG(status.st_mode) or not access_fault(status, any_owner=any_owner):
        return ""
    commands = []
    if not any_owner and status.st_uid not in (0, os.geteuid()):
        commands.append(command("chown", owner(), path))
    if status.st_mode & 0o077:
        commands.append(command("chmod", "600", path))
    return " && ".join(commands)


def _examine_configuration(path: Path) -> Finding:
    """A server URL holds a password, so the file is a secret."""
    try:
        status = path.stat()
    except OSError:
        return Finding("nats.servers", "note", "a URL holds a password; password_file is safer")
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o007:
        detail = f"a URL holds a password and {path} is open to all users"
        return Finding("nats.servers", "warning", detail, repair=command("chmod", "o=", path))
    return Finding("nats.servers", "ok", "a URL holds a password; other users cannot read the file")


def examine_sealing_keys(subject: Subject) -> Iterator[Finding]:
    """Checks each file in [encryption] key_dirs with the rule of the verb `encrypt`."""
    from ...recorder.key_file import read_key_of, zeroise

    for directory in subject.settings.encryption.key_dirs:
        for path in _files(directory):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                detail = f"{path}: {os.strerror(error.errno or 5).lower()}"
                yield Finding("key_file", "bad", detail, repair=command("chown", owner(), path))
                continue
            try:
                fault = access_fault(os.fstat(file), any_owner=is_root())
                key = None if fault else read_key_of(file)
            finally:
                os.close(file)
            if fault:
                yield Finding("key_file", "bad", f"{path}: {fault}", repair=closing_command(path))
            elif key is None:
                detail = f"{path}: expected 32 bytes or 64 hexadecimal digits"
                yield Finding("key_file", "warning", detail, repair=new_key(path))
            else:
                zeroise(key)
                yield Finding("key_file", "ok", path)


def is_root() -> bool:
    """Root examines the files of the agent's user."""
    return os.geteuid() == 0


def new_key(path: str) -> str:
    draft = f"{path}.new"
    make = command("openssl", "rand", "-hex", "-out", draft, 32)
    return f"(umask 077 && {make}) && {command('mv', draft, path)}"


def _files(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    paths = (os.path.join(directory, name) for name in names if not name.startswith("."))
    return [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]


def examine_trusted_keys(subject: Subject) -> Iterator[Finding]:
    from ...firmware.keys import load

    firmware = subject.settings.firmware
    if not firmware.dirs:
        return
    check = "firmware.trusted_keys"
    directory = firmware.trusted_keys or "/etc/netsonde/trusted"
    prepare = command("install", "-D", "-m", "0644", "KEY.pem", directory + "/")
    if not firmware.trusted_keys:
        prepare = f"{subject.set_key(check, directory)} && {prepare}"
    trusted = load(firmware.trusted_keys)
    for name, reason in trusted.refused.items():
        path = os.path.join(directory, name)
        if not os.path.isfile(path):
            repair = command("install", "-d", "-m", "0755", path)
        elif os.stat(path).st_mode & stat.S_IWOTH:
            repair = command("chmod", "o-w", path)
        else:
            repair = command("mv", path, os.path.join(directory, f".{name}"))
        yield Finding(check, "bad", f"{name}: {reason}", repair=repair)
    if trusted.keys:
        names = ", ".join(f"{key.name} ({key.kind}, {key.id})" for key in trusted.keys)
        yield Finding(check, "ok", names)
    elif not trusted.refused:
        detail = "no trusted key: firmware cannot be verified"
        yield Finding(check, "bad", detail, repair=prepare)

"""Collects all parts of the archive, and masks each of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from ...config.file import load
from ...config.sections import Config
from ...errors import ConfigError
from .asking import ask_agent
from .masking import Masker, find_secrets
from .parts import Part, describe_configuration, host_parts

MISSING = "MISSING.txt"
CONTENTS = "CONTENTS.txt"


def collect(args: Namespace) -> tuple[str, dict[str, str], list[str]]:
    """Returns the host's name, the files by name, and what is missing."""
    path = Path(args.config) if args.config else None
    invalid = ""
    try:
        settings = load(path)
    except ConfigError as error:
        settings, invalid = Config(), error.detail
    masker = Masker(find_secrets(path, settings, args))
    collected = Collected(masker)
    if invalid:
        collected.missing.append(masker.mask(f"config.toml: {invalid}"))
    else:
        collected.add("config.toml", lambda: describe_configuration(settings))
    for name, part in host_parts(path, settings, args.log_lines).items():
        collected.add(name, part)
    try:
        for name, text in ask_agent(args, settings.host).items():
            collected.files[name] = masker.mask(text)
    except Exception as error:
        collected.note("status.json, metrics.json", error)
    host, files, missing = settings.host, collected.files, collected.missing
    listed = {CONTENTS: "".join(f"{name}\n" for name in sorted(files))}
    if missing:
        listed[MISSING] = "".join(f"{one}\n" for one in missing)
    return host, listed | files, missing


class Collected:
    def __init__(self, masker: Masker) -> None:
        self.files: dict[str, str] = {}
        self.missing: list[str] = []
        self._masker = masker

    def add(self, name: str, part: Callable[[], str] | Part) -> None:
        """Adds a part. Any exception counts as missing: a report of a faulty host is worth most."""
        try:
            self.files[name] = self._masker.mask(part())
        except Exception as error:
            self.note(name, error)

    def note(self, name: str, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        self.missing.append(self._masker.mask(f"{name}: {reason}"))

"""The interface of a command.

The docstring of its class is the help text: the first line appears in the list of commands,
all of it under `COMMAND --help`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol


class Command(Protocol):
    name: str

    def add_arguments(self, parser: ArgumentParser) -> None: ...

    def run(self, args: Namespace) -> int:
        """Runs the command. Returns the exit code. `main` prints a NetsondeError."""
        ...

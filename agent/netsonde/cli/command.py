"""What a command of `netsonde` is: a name, help, arguments, and a run that gives the exit
code. The class's docstring is its help: the first line in the list of commands, the whole of
it under `--help`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol


class Command(Protocol):
    name: str

    def add_arguments(self, parser: ArgumentParser) -> None: ...

    def run(self, args: Namespace) -> int:
        """Does the work and returns the exit code; a NetsondeError is printed by main."""
        ...

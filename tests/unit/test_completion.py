"""The completion script for zsh, in an interactive zsh: commands, actions, options and choices."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deadlines import TIMEOUT_SEC, eventually_now

COMMAND = Path(sys.executable).with_name("netsonde")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r|\x08")
# Control-X prints the line that the user sees.
SETUP = """
PROMPT='> '; setopt no_beep; unsetopt zle_bracketed_paste prompt_sp 2>/dev/null
fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D
zstyle ':completion:*' verbose no
show() {{ print -r -- "<$BUFFER>" }}; zle -N show; bindkey '^X' show
bindkey '^I' complete-word
print -r -- ready''{end}
"""


class Zsh:
    """An interactive shell on a pseudo-terminal."""

    def __init__(self, directory: Path) -> None:
        functions = directory / "functions"
        functions.mkdir()
        script = subprocess.run([COMMAND, "--print-completion", "zsh"], capture_output=True)
        assert script.returncode == 0
        (functions / "_netsonde").write_bytes(script.stdout)
        setup = directory / "setup.zsh"
        setup.write_text(SETUP.format(functions=functions, end="."))
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self._process = subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={
                "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
                "HOME": str(directory),
                "TERM": "xterm",
                "LANG": "C.UTF-8",
                "COLUMNS": "200",
            },
        )
        os.close(theirs)
        self._printed = b""
        self._type(f"source {setup}\n")
        self._wait_for("ready.")

    def complete(self, words: str) -> str:
        """Types words, a tab and Control-X. Returns what is shown until the line is printed."""
        self._printed = b""
        self._type(f"{words}\t\x18")
        return self._wait_for(">\n")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT_SEC)
        os.close(self._ours)

    def _type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def _wait_for(self, text: str) -> str:
        eventually_now(lambda: text in self._read(), f"{text!r} in {self._printed!r}")
        return self._read()

    def _read(self) -> str:
        """Returns what is shown. A read may end within a character or an escape sequence."""
        with contextlib.suppress(OSError):
            self._printed += os.read(self._ours, 65536)
        return ESCAPES.sub("", self._printed.decode(errors="replace"))


@pytest.fixture
def zsh(tmp_path: Path) -> Iterator[Zsh]:
    shell = Zsh(tmp_path)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("netsonde diag", "netsonde diagnostics "),
        ("netsonde start --flow", "netsonde start --flow-timeout "),
        ("netsonde config sch", "netsonde config schema "),
        ("netsonde nats stre", "netsonde nats streams "),
        ("netsonde top --sort pa", "netsonde top --sort packets "),
    ],
)
def test_tab_completes_the_only_match(words: str, completed: str, zsh: Zsh) -> None:
    assert f"<{completed}>" in zsh.complete(words)


def test_tab_lists_all_matches(zsh: Zsh) -> None:
    shown = zsh.complete("netsonde sta")
    assert set(re.findall(r"sta(?:rt|tus)", shown)) == {"start", "status"}

"""`netsonde decode FILE`: prints captured NetFlow and IPFIX as JSON lines."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

from ..errors import EXIT_OK, EXIT_REFUSED, NetsondeError
from ..wire.quantity import counted
from .output import escape_json, notify, say
from .requests import whole

if TYPE_CHECKING:
    from ..core.ipfix import ExportDecoder
    from ..core.values import DecodedMessage

FILE_BYTES_MAX = 4 << 30
ENTERPRISE = 32473  # the default of [export] enterprise_number


class DecodeCommand:
    """Show the records of captured NetFlow 5, NetFlow 9 and IPFIX as JSON, one per line.

    FILE is a pcap or pcapng file with the datagrams, or a sequence of messages; '-' is
    standard input. Malformed data are reported on standard error; the exit code is then 1.
    """

    name = "decode"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="capture file, file of messages, or '-'")
        parser.add_argument(
            "--enterprise-number",
            type=whole(1, 2**32 - 1),
            default=ENTERPRISE,
            metavar="N",
            help=f"[export] enterprise_number of the agents ({ENTERPRISE})",
        )
        parser.add_argument("--summary", action="store_true", help="print counts on standard error")

    def run(self, args: Namespace) -> int:
        from ..core.ipfix import ExportDecoder

        data = memoryview(read_file(args.file))
        decoding = Decoding(ExportDecoder(args.enterprise_number), sys.stdout.buffer)
        decoding.read(data)
        sys.stdout.buffer.flush()
        if args.summary:
            say(decoding.summary())
        problems = decoding.problems()
        for problem in problems:
            notify(f"{args.file}: {problem}")
        return EXIT_REFUSED if problems else EXIT_OK


def read_file(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise NetsondeError(f"{name}: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise NetsondeError(f"{name}: larger than 4 GiB, split it with editcap or tcpdump -C")
    return data


class Decoding:
    """Decodes and counts the messages of one file."""

    def __init__(self, decoder: ExportDecoder, out: BinaryIO) -> None:
        self._decoder = decoder
        self._out = out
        self.counts: Counter[str] = Counter()

    def read(self, data: memoryview) -> None:
        from .datagrams import is_capture, read_datagrams

        if not is_capture(data):
            self._read_raw(data)
            return
        for datagram in read_datagrams(data, self.counts):
            message = self._decoder.decode(datagram.source, datagram.payload)
            if message is None:
                self.counts["datagrams_foreign"] += 1
            else:
                self._write(message)

    def _read_raw(self, data: memoryview) -> None:
        place = 0
        while place < len(data):
            message = self._decoder.decode(0, data[place:])
            if message is None or message.bytes == 0:
                self.counts["bytes_foreign"] += len(data) - place
                return
            self._write(message)
            place += message.bytes

    def _write(self, message: DecodedMessage) -> None:
        text = message.text
        if not text.isascii():
            text = "\n".join(map(escape_json, text.decode().split("\n"))).encode()
        self._out.write(text)
        self.counts["messages"] += 1
        for name in ("records", "templates", "sets_unknown", "malformed", "templates_refused"):
            self.counts[name] += getattr(message, name)

    def summary(self) -> str:
        counts = self.counts
        parts = [counted(counts[f"{noun}s"], noun) for noun in ("message", "record", "template")]
        early = counted(counts["sets_unknown"], "set")
        return (
            f"{', '.join(parts)}, {early} before {'its' if early == '1 set' else 'their'} template"
        )

    def problems(self) -> list[str]:
        texts = {
            "malformed": ("{}", "malformed part", ""),
            "templates_refused": ("{} rejected, too many", "template", ""),
            "sets_unknown": ("{} template is missing", "set skipped, its", "sets skipped, their"),
            "datagrams_foreign": ("{} not NetFlow 5, 9 or IPFIX", "datagram is", "datagrams are"),
            "bytes_foreign": ("the last {} not NetFlow 5, 9 or IPFIX", "byte is", "bytes are"),
            "fragments_lost": (
                "{} incomplete",
                "fragmented datagram is",
                "fragmented datagrams are",
            ),
            "packets_cut": ("{} truncated", "packet is", "packets are"),
            "file_cut": ("the file is truncated", "", ""),
        }
        found = [
            text.format(counted(self.counts[name], one, many))
            for name, (text, one, many) in texts.items()
            if self.counts[name]
        ]
        if not self.counts["messages"] and not found:
            found.append("the file contains no NetFlow or IPFIX")
        return found

"""`netsonde decode FILE`: captured NetFlow and IPFIX as JSON, a line a record."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

from ..errors import EXIT_OK, EXIT_REFUSED, NetsondeError

if TYPE_CHECKING:
    from ..core.ipfix import ExportDecoder
    from ..core.values import DecodedMessage

FILE_BYTES_MAX = 4 << 30


class DecodeCommand:
    """Show the records of captured NetFlow 5, NetFlow 9 and IPFIX as JSON, one a line.

    FILE is a pcap or pcapng with the datagrams, or messages one after the other as they
    came; '-' is standard input. What could not be read is told on standard error, and the
    exit code is then 1.
    """

    name = "decode"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="a capture file, raw messages, or '-'")
        parser.add_argument(
            "--summary", action="store_true", help="on standard error: what was in the file"
        )

    def run(self, args: Namespace) -> int:
        from ..core.ipfix import ExportDecoder

        data = memoryview(read_file(args.file))
        decoding = Decoding(ExportDecoder(), sys.stdout.buffer)
        decoding.read(data)
        sys.stdout.buffer.flush()
        if args.summary:
            print(decoding.summary(), file=sys.stderr)
        for complaint in decoding.complaints():
            print(f"netsonde: {args.file}: {complaint}", file=sys.stderr)
        return EXIT_REFUSED if decoding.complaints() else EXIT_OK


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
        raise NetsondeError(f"{name}: larger than 4 GiB; split it with editcap or tcpdump -C")
    return data


class Decoding:
    """One file's messages, and what there was to be said about them."""

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
                self._take(message)

    def _read_raw(self, data: memoryview) -> None:
        place = 0
        while place < len(data):
            message = self._decoder.decode(0, data[place:])
            if message is None or message.size == 0:
                self.counts["bytes_foreign"] += len(data) - place
                return
            self._take(message)
            place += message.size

    def _take(self, message: DecodedMessage) -> None:
        self._out.write(message.text)
        self.counts["messages"] += 1
        for name in ("records", "templates", "sets_unknown", "malformed", "templates_refused"):
            self.counts[name] += getattr(message, name)

    def summary(self) -> str:
        counts = self.counts
        return (
            f"{counts['messages']} messages, {counts['records']} records, "
            f"{counts['templates']} templates, {counts['sets_unknown']} sets before their template"
        )

    def complaints(self) -> list[str]:
        said = {
            "malformed": "{} parts contradict themselves",
            "templates_refused": "{} templates were too many",
            "sets_unknown": "{} sets came before their template",
            "datagrams_foreign": "{} datagrams are no NetFlow 5, 9 or IPFIX",
            "bytes_foreign": "the last {} bytes are no NetFlow 5, 9 or IPFIX",
            "fragments_lost": "{} fragmented datagrams are not whole",
            "packets_cut": "{} packets were not captured whole",
            "file_cut": "the file is cut off",
        }
        found = [
            words.format(self.counts[name]) for name, words in said.items() if self.counts[name]
        ]
        if not self.counts["messages"] and not found:
            found.append("there is no NetFlow or IPFIX in it")
        return found

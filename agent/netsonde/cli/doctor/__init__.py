"""`netsonde doctor`: checks this host and its configuration, and names the repair of each fault.

Each module has the checks of one subject. A check is a function that yields findings.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ...config.file import DEFAULT_PATH


class DoctorCommand:
    """Check this host: privileges, configuration, files, interfaces, limits, NATS.

    Each fault ends with the command that repairs it. Run it with the agent's user and
    capabilities:
      systemd-run --pipe --uid=netsonde -p AmbientCapabilities=CAP_NET_RAW netsonde doctor
    Warnings and missing backends are not errors if another backend can capture. Exit codes:
    0 no error; 1 other errors; 69 NATS; 77 no backend can capture; 78 the configuration.
    """

    name = "doctor"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--config", metavar="FILE", help=f"default: {DEFAULT_PATH}")
        parser.add_argument(
            "-i", "--interface", metavar="IF", help="check this interface; commas separate several"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object per line")

    def run(self, args: Namespace) -> int:
        from .checks import ENVIRONMENT, PROCESS, examine  # loads the C core and nats-py
        from .finding import report

        path = Path(args.config) if args.config else None
        findings = list(examine(path, (*PROCESS, *ENVIRONMENT), interface=args.interface))
        return report(findings, as_json=args.json)

"""Examples of each command, for the end of its help and its man page.

The key is the command, with its action after a space. tests/unit/test_examples.py parses each
example with the real parser.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter, _SubParsersAction

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "netsonde run --embedded-nats",
        "netsonde run --nats nats://nats1:4222,nats://nats2:4222 --label site=ams",
    ),
    "demo": ("netsonde demo",),
    "doctor": ("netsonde doctor", "netsonde doctor -i eth0 --json"),
    "diagnostics": (
        "netsonde diagnostics",
        "netsonde diagnostics --output /tmp/report.tar.gz --log-lines 10000",
    ),
    "config": ("netsonde config check", "netsonde config show --json"),
    "config init": ("netsonde config init /etc/netsonde/netsonde.toml",),
    "config check": ("netsonde config check --environment",),
    "config set": ("netsonde config set nats.servers nats://nats1:4222 agent.host web1",),
    "config show": ("netsonde config show --config ./netsonde.toml",),
    "config schema": ("netsonde config schema",),
    "ps": ("netsonde ps", "netsonde ps --select 'site = ams and host ~ web*'"),
    "backends": ("netsonde backends --host web1",),
    "start": (
        "netsonde start -i eth0 -b af_packet --meter --group site=ams",
        "netsonde start -i /srv/day.pcap -b file --host lab1",
    ),
    "stop": ("netsonde stop --host web1 --reason maintenance",),
    "status": ("netsonde status", "netsonde status --group site=ams --json"),
    "metrics": ("netsonde metrics --host 'web*'",),
    "top": ("netsonde top", "netsonde top --group site=ams -n 1"),
    "meter": ("netsonde meter on --flow-timeout 60", "netsonde meter off --host web1"),
    "export": (
        "netsonde export on --collector-ip 198.18.0.9 --collector-port 2055",
        "netsonde export off --collector-ip 198.18.0.9 --collector-port 2055",
    ),
    "flows": (
        "netsonde flows --sort packets -n 10 --ip 10.0.0.0/8",
        "netsonde flows --by dest_ip --protocol tcp --not-port 22",
        "netsonde flows --follow --port 443",
    ),
    "events": ("netsonde events --since -1d --kind alarm", "netsonde events --follow"),
    "packets": (
        "netsonde packets --host web1 --filter 'host 10.0.0.7' --start -5m -w p.pcapng",
        "netsonde packets --filter 'udp port 53' --start -30s --open",
    ),
    "extcap": ("netsonde extcap install", "netsonde extcap remove"),
    "encrypt": ("netsonde encrypt on --key-file 2026.key", "netsonde encrypt off --host web1"),
    "decrypt": ("netsonde decrypt web1.segment --key 2026.key -o out.pcapng",),
    "collect": (
        "netsonde collect -o /var/lib/flows --durable warehouse --format parquet",
        "netsonde collect --live --group site=ams",
    ),
    "plan": ("netsonde plan fleet.toml",),
    "apply": ("netsonde apply fleet.toml", "netsonde apply --resume"),
    "drift": ("netsonde drift",),
    "rollback": ("netsonde rollback 6",),
    "forget": ("netsonde forget web1 web2",),
    "firmware": ("netsonde firmware router-1.4.bin router-1.4.bin.minisig --group role=router",),
    "schema": ("netsonde schema --host web1",),
    "nats": ("netsonde nats streams", "netsonde nats setup --out /etc/nats/netsonde"),
    "nats setup": (
        "netsonde nats setup --out /etc/nats/netsonde --controller deploy --collector warehouse",
    ),
    "nats host": ("netsonde nats host --out /etc/nats/netsonde web1 site=ams",),
    "nats revoke": ("netsonde nats revoke --out /etc/nats/netsonde web1",),
    "nats streams": ("netsonde nats streams --nats nats://nats1:4222",),
    "decode": ("netsonde decode export.pcapng", "netsonde decode --summary export.pcapng"),
}


def add_examples(parser: ArgumentParser, command: str) -> None:
    """Adds the examples of a command, and of each of its actions, to the end of the help."""
    shown = EXAMPLES.get(command, ())
    if shown:
        listed = "".join(f"\n  {example}" for example in shown)
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = f"{'examples' if len(shown) > 1 else 'example'}:{listed}"
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for name, inner in action.choices.items():
                add_examples(inner, f"{command} {name}")

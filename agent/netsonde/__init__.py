"""netsonde: a per-host packet-capture agent on NATS."""

__version__ = "0.1.0"

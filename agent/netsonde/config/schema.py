"""The JSON Schema of the configuration file, and the writer of schemas/.

`python -m netsonde.config.schema DIR` writes asyncapi.json and config.json; a test compares
them with the types.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from ..wire import schema as wire_schema
from .sections import Config


def json_schema() -> dict[str, Any]:
    """schemas/config.json"""
    schema = msgspec.json.schema(Config)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "netsonde.toml",
        "description": "Configuration of the netsonde agent",
        **schema,
    }


def write(directory: Path) -> None:
    """Writes both published schemas into `directory`."""
    (directory / "asyncapi.json").write_text(wire_schema.text(wire_schema.document()))
    (directory / "config.json").write_text(wire_schema.text(json_schema()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

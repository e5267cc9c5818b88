# SPDX-License-Identifier: MIT
"""What a folder says of its checkpoints, as JSON: the manifest of a zoo, or of a healed family."""

import json
from pathlib import Path
from typing import Any

from fairseq_layerdrop.reporting.files import write_files

MANIFEST = "manifest.json"


def read_object(file: Path) -> dict[str, Any]:
    """A file of JSON; empty if there is none, or something else in its place."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_object(file: Path, content: dict[str, Any]) -> None:
    """Write it whole, or not at all."""
    write_files(file.parent, {file.name: f"{json.dumps(content, indent=1)}\n".encode()})

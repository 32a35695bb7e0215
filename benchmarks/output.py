"""One form for what a benchmark found: command, date, versions, then its own figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import pathlib
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


def write(output: str, command: str, packages: tuple[str, ...], **found: Any) -> None:
    """Writes `output`, relative to the repository, with the installed versions of `packages`."""
    result = {
        'command': command,
        'date': datetime.date.today().isoformat(),
        'versions': {name: importlib.metadata.version(name) for name in packages},
        **found,
    }
    path = ROOT / output
    path.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    print(f'written: {path}')

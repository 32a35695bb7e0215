"""One form for what a benchmark found: command, date, versions, then its own figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import pathlib
from collections.abc import Iterable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(module: str, flags: Iterable) -> str:
    """The command that ran: those of the absl flags that were not left as they are."""
    chosen = [flag for flag in flags if flag.value != flag.default]
    values = [','.join(flag.value) if isinstance(flag.value, list) else flag.value for flag in chosen]
    return f'python -m {module}' + ''.join(f' --{f.name}={v}' for f, v in zip(chosen, values, strict=True))


def write(output: str, command: str, packages: tuple[str, ...], **found: Any) -> None:
    """Writes `output`, relative to the repository, with the versions of those of `packages` that are installed."""
    installed = {d.name.lower() for d in importlib.metadata.distributions() if d.name}
    result = {
        'command': command,
        'date': datetime.date.today().isoformat(),
        'processor': _processor(),
        'versions': {
            name: importlib.metadata.version(name) for name in packages if name.lower() in installed
        },
        **found,
    }
    path = ROOT / output
    path.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    print(f'written: {path}')


def _processor() -> str:
    """The widest vectors it has, which ratios on a CPU depend on."""
    flags = set(pathlib.Path('/proc/cpuinfo').read_text().split())
    return next((name for name in ('amx_tile', 'avx512f', 'avx2', 'asimd') if name in flags), 'unknown')

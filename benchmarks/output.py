"""Writes result files: command, date, processor, versions and a benchmark's own values."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import pathlib
from collections.abc import Iterable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(module: str, flags: Iterable) -> str:
    """Returns the command of this run with those absl flags that are not at their defaults."""
    changed = [flag for flag in flags if flag.value != flag.default]
    values = [
        ','.join(flag.value) if isinstance(flag.value, list) else flag.value for flag in changed
    ]
    return f'python -m {module}' + ''.join(
        f' --{flag.name}={value}' for flag, value in zip(changed, values, strict=True)
    )


def write(output: str, command: str, packages: tuple[str, ...], **values: Any) -> None:
    """Writes a result file.

    Args:
      output: path of the file, relative to the repository.
      command: the command that reproduces the result.
      packages: names of packages; the versions of the installed ones are written.
      **values: the benchmark's own entries.
    """
    installed = {d.name.lower() for d in importlib.metadata.distributions() if d.name}
    result = {
        'command': command,
        'date': datetime.date.today().isoformat(),
        'processor': _processor(),
        'versions': {
            name: importlib.metadata.version(name) for name in packages if name.lower() in installed
        },
        **values,
    }
    path = ROOT / output
    path.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    print(f'written: {path}')


def _processor() -> str:
    """Returns the widest vector extension of the processor; ratios on a CPU depend on it."""
    flags = set(pathlib.Path('/proc/cpuinfo').read_text().split())
    return next(
        (name for name in ('amx_tile', 'avx512f', 'avx2', 'asimd') if name in flags), 'unknown'
    )

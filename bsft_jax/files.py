"""Small files: written whole or not at all, and JSON that is read or reported as broken."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from bsft_jax.errors import UserError


def cache_home() -> pathlib.Path:
    """Returns the folder of caches: `bsft_jax` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'bsft_jax'


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all."""
    partial = path.with_name(path.name + '.partial')
    partial.write_text(text, encoding='utf-8')
    os.replace(partial, path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def write_lines(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a JSONL file whole or not at all."""
    write_text(path, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; raises UserError for anything else."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(
            f'not valid JSON ({error})', where=str(path), fix='delete it and create it again'
        ) from error


def read_lines(path: pathlib.Path) -> list[Any]:
    """Reads a JSONL file; line separators within its texts do not end a line."""
    with path.open(encoding='utf-8') as file:
        return [json.loads(line) for line in file]

"""Small files: written whole or not at all, and JSON that is read or reported as broken."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from bsft_jax.errors import UserError, printable

# In bytes. File systems allow 255, and some names are given an ending.
MAX_NAME = 200
# A disk, a quota or the largest size of a file is exhausted.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Characters of a name that its scratch name keeps, so that it does not become too long itself.
_KEPT_CHARACTERS = 40


def check_name(name: Any, where: str) -> None:
    """Raises UserError unless a name can be that of one folder or file, wherever it stands."""
    if not isinstance(name, str):
        raise UserError(f'{name!r} is not a text', where=where)
    if name in ('', '.', '..') or '/' in name or printable(name) != name or not name.isprintable():
        raise UserError(
            f'{name!r} is not the name of one folder',
            where=where,
            fix='leave out slashes and control characters',
        )
    if (size := len(name.encode())) > MAX_NAME:
        raise UserError(f'a name of {size} bytes is too long', where=where, fix=f'{MAX_NAME} fit')


def shorten_name(name: str) -> str:
    """Returns a name that fits; one that is too long is cut and ends with a digest."""
    encoded = name.encode()
    if len(encoded) <= MAX_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f'{encoded[: MAX_NAME - 13].decode(errors="ignore")}-{digest}'


def cache_home() -> pathlib.Path:
    """Returns the folder of caches: `bsft_jax` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'bsft_jax'


@contextlib.contextmanager
def writing(path: str | pathlib.Path) -> Iterator[None]:
    """Turns an error of the operating system within into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        fix = 'make room and start again' if error.errno in _FULL else 'name another place'
        raise UserError(f'cannot be written ({reason})', where=str(path), fix=fix) from error


def scratch_path(path: pathlib.Path) -> pathlib.Path:
    """Returns a path beside `path` that nobody else uses, for what is not complete yet."""
    return path.with_name(f'{path.name[:_KEPT_CHARACTERS]}.partial-{secrets.token_hex(4)}')


def is_scratch(name: str) -> bool:
    """Returns whether a file name is one of `scratch_path`."""
    return re.fullmatch(r'.*\.partial-[0-9a-f]{8}', name, re.DOTALL) is not None


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path beside `path`; the file written there becomes `path` at the end.

    On an error it is removed. Raises UserError where the disk is full or nothing can be written.
    """
    partial = scratch_path(path)
    with writing(path):
        try:
            yield partial
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all."""
    write_bytes(path, text.encode('utf-8'))


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


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads the lines of a `metrics.jsonl` that a run wrote whole.

    A line is an object of numbers with a whole `step`. Torn lines, bytes that are no text and
    anything else are left out; so is everything where there is no such file.
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().split(b'\n'):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        numbers = isinstance(row, dict) and all(type(x) in (int, float) for x in row.values())
        if numbers and type(row.get('step')) is int:
            rows.append(row)
    return rows

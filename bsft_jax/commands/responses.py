"""Keeps what an endpoint answered, so that nothing is asked twice: `responses.jsonl`.

A line is appended and synced for each answer. A command that is killed leaves whole lines and at
most one torn one, the last.
"""

from __future__ import annotations

import json
import os
import pathlib
import threading
from typing import Any, NamedTuple

from bsft_jax import files
from bsft_jax.errors import UserError

NAME = 'responses.jsonl'
# What every line has.
_FIELDS = frozenset(
    {
        'id',
        'digest',
        'request',
        'text',
        'option',
        'by',
        'option_logprobs',
        'finish_reason',
        'latency_seconds',
        'prompt_tokens',
        'completion_tokens',
        'attempts',
        'is_drawn',
    }
)


class Key(NamedTuple):
    """Names a question: the record, a digest of its words, and one of all that is sent."""

    id: str
    digest: str
    request: str


class ResponseLog:
    """Reads and appends answers; several threads may append.

    Raises UserError for a file that something else wrote.
    """

    def __init__(self, path: pathlib.Path):
        self._path, self._lock = path, threading.Lock()
        self._rows = _read(path)

    def get(self, key: Key) -> dict[str, Any] | None:
        """Returns the line of a question; None where it was not answered."""
        return self._rows.get(key)

    def append(self, key: Key, answer: dict[str, Any]) -> None:
        """Writes the answer to a question, which is on disk when this returns."""
        row = {**key._asdict(), **answer}
        line = json.dumps(row, ensure_ascii=True) + '\n'
        with self._lock, files.writing(self._path):
            with self._path.open('ab') as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            self._rows[key] = row


def _read(path: pathlib.Path) -> dict[Key, dict[str, Any]]:
    """Returns the lines of a file, and cuts off a torn last one."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b'\n') + 1]
    if len(whole) < len(content):
        with files.writing(path):
            os.truncate(path, len(whole))
    rows = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            is_answer = isinstance(row, dict) and row.keys() == _FIELDS
        except (ValueError, RecursionError):
            is_answer = False
        if not is_answer:
            raise UserError(
                'not an answer of an endpoint',
                where=f'{path}:{number}',
                fix='delete this line, or the file to ask everything again',
            )
        rows[Key(row['id'], row['digest'], row['request'])] = row
    return rows

"""Rendered examples on disk, so that a second start does not read, check and tokenize again.

An entry is a folder of flat arrays below the user's cache folder. The arrays are mapped into
memory, so the processes of a host share their pages. The name of an entry is a digest of everything
it depends on: the bytes of the records, the tokenizer with its template, the settings, and the code
that reads and renders.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.files import cache_home

# The newest entries stay, at most so many.
MAX_ENTRIES = 20
# Seconds; what is rendered faster is not cached.
MIN_RENDER_SECONDS = 5.0
_PACKAGE = pathlib.Path(__file__).parents[1]
# The code that reads and renders records.
_CODE_FOLDERS = ('data', 'records', 'behaviorbench')
_INDEX = 'index.json'
_UNFINISHED = '.partial-'
# Seconds after which an unfinished entry belongs to a process that was killed.
_ABANDONED_SECONDS = 86400.0

Arrays = Mapping[str, np.ndarray]


def digest_of_files(paths: Sequence[pathlib.Path]) -> str:
    """Returns the SHA-256 of the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open('rb') as file:
            digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.hexdigest()


def entry_name(*inputs: Any) -> str:
    """Returns the name of the entry for plain JSON values and the current code."""
    code = sorted(path for folder in _CODE_FOLDERS for path in (_PACKAGE / folder).rglob('*.py'))
    return hashlib.sha256(json.dumps([digest_of_files(code), inputs]).encode()).hexdigest()


def load(name: str) -> tuple[list[Arrays], list[str]] | None:
    """Loads the parts of an entry, and the report on each.

    Returns None if there is no entry of that name, or a damaged one, which is removed.
    """
    folder = cache_home() / 'examples' / name
    try:
        reports, fields = json.loads((folder / _INDEX).read_text(encoding='utf-8'))
        parts = [
            {field: np.load(folder / f'{number}-{field}.npy', mmap_mode='r') for field in fields}
            for number in range(len(reports))
        ]
        os.utime(folder)
    except (OSError, EOFError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return parts, reports


def save(name: str, parts: Sequence[Arrays], reports: Sequence[str]) -> None:
    """Saves an entry, whole or not at all; does nothing where the cache cannot be written."""
    folder = cache_home() / 'examples'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    except OSError:
        return
    try:
        for number, arrays in enumerate(parts):
            for field, array in arrays.items():
                np.save(partial / f'{number}-{field}.npy', array)
        index = json.dumps([list(reports), list(parts[0])])
        (partial / _INDEX).write_text(index, encoding='utf-8')
        # Fails where another process was faster.
        partial.rename(folder / name)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
    _remove_old_entries(folder)


def _remove_old_entries(folder: pathlib.Path) -> None:
    """Removes all but the newest entries, and what killed processes left."""
    ages = {path: time.time() - _last_use(path) for path in folder.iterdir()}
    complete = sorted(
        (path for path in ages if not path.name.startswith(_UNFINISHED)), key=ages.get
    )
    abandoned = [path for path in ages.keys() - {*complete} if ages[path] > _ABANDONED_SECONDS]
    for path in (*complete[MAX_ENTRIES:], *abandoned):
        shutil.rmtree(path, ignore_errors=True)


def _last_use(path: pathlib.Path) -> float:
    """Returns the time of an entry's last use; now if another process has just removed it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()

"""Rendered examples on disk, so that a second start need not read, check and tokenise its records again.

An entry is a folder of flat arrays below the user's cache folder, mapped into memory: processes of one host share its
pages. Its name is a digest of everything that made it: the bytes of the records, the tokenizer with its template, the
settings, and the code that reads and renders.
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

KEPT = 20  # entries, the newest
FROM_SECONDS = 5.0  # of rendering; what is made faster is not kept
_INDEX = 'index.json'
_UNFINISHED = '.partial-'
_GIVEN_UP = 86400.0  # seconds after which nobody is still writing an entry

Arrays = Mapping[str, np.ndarray]


def home() -> pathlib.Path:
    """`bsft_jax` in the user's cache folder."""
    folder = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return pathlib.Path(folder, 'bsft_jax')


def digest_of_files(paths: Sequence[pathlib.Path]) -> str:
    """SHA-256 of the contents of files and their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open('rb') as file:
            digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.hexdigest()


def key(*made_of: Any) -> str:
    """Name of an entry, of plain JSON values and the code below `data` and `behaviorbench`."""
    package = pathlib.Path(__file__).parent
    code = sorted(path for part in ('data', 'behaviorbench') for path in (package / part).rglob('*.py'))
    return hashlib.sha256(json.dumps([digest_of_files(code), made_of]).encode()).hexdigest()


def load(name: str) -> tuple[list[Arrays], list[str]] | None:
    """The parts of an entry and what was said of each; None where there is no whole entry of that name."""
    folder = home() / 'examples' / name
    try:
        reports, names = json.loads((folder / _INDEX).read_text(encoding='utf-8'))
        parts = [
            {field: np.load(folder / f'{number}-{field}.npy', mmap_mode='r') for field in names}
            for number in range(len(reports))
        ]
        os.utime(folder)
    except (OSError, EOFError, ValueError):  # absent or damaged
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return parts, reports


def save(name: str, parts: Sequence[Arrays], reports: Sequence[str]) -> None:
    """Keeps an entry, whole or not at all; where nothing can be written nothing is kept."""
    folder = home() / 'examples'
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
        partial.rename(folder / name)  # fails where another process was faster
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
    _sweep(folder)


def _sweep(folder: pathlib.Path) -> None:
    """Removes all but the newest entries, and what killed processes left."""
    age_of = {path: time.time() - _time_of(path) for path in folder.iterdir()}
    whole = sorted((path for path in age_of if not path.name.startswith(_UNFINISHED)), key=age_of.get)
    unfinished = [path for path in age_of.keys() - {*whole} if age_of[path] > _GIVEN_UP]
    for path in (*whole[KEPT:], *unfinished):
        shutil.rmtree(path, ignore_errors=True)


def _time_of(path: pathlib.Path) -> float:
    """When an entry was last used; now for one that another process has just removed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()

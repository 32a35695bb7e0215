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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEPT = 20  # entries, the newest
FROM_SECONDS = 5.0  # of rendering; what is made faster is not kept
_INDEX = 'index.json'

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
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError):  # damaged
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return parts, reports


def save(name: str, parts: Sequence[Arrays], reports: Sequence[str]) -> None:
    """Keeps an entry, whole or not at all; where nothing can be written nothing is kept."""
    folder = home() / 'examples'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix='.partial-', dir=folder))
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
    entries = sorted((path for path in folder.iterdir() if path.name[0] != '.'), key=os.path.getmtime)
    for old in entries[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)

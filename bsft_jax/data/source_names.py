"""Guesses what a mistyped name of a data source was meant to be."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable

from bsft_jax.errors import misspelt
from bsft_jax.records.record import SPLITS

_SCHEME_BY_EXTENSION = {
    '.jsonl': 'jsonl',
    '.json': 'jsonl',
    '.csv': 'csv',
    '.tsv': 'csv',
    '.parquet': 'hf',
}
# Schemes of other tools for what a scheme here reads.
_SYNONYMS = {'json': 'jsonl', 'tsv': 'csv', 'parquet': 'hf', 'huggingface': 'hf', 'file': 'jsonl'}
_HUB_ID = re.compile(r'[\w.-]+/[\w.-]+')


def guess(source: str, schemes: Iterable[str]) -> str:
    """Returns the source that `source` probably means, as SCHEME:REST; '' where nothing is near.

    A file or folder without a scheme gets the one that reads it, and a misspelt scheme is mended.
    """
    scheme, colon, rest = source.partition(':')
    if colon and rest:
        meant = _SYNONYMS.get(scheme.lower()) or misspelt(scheme, schemes)
        return f'{meant}:{rest}' if meant else ''
    path = pathlib.Path(source)
    if meant := _SCHEME_BY_EXTENSION.get(path.suffix.lower()):
        return f'{meant}:{source}'
    if source and path.is_dir():
        is_prepared = any((path / f'{split}.jsonl').is_file() for split in SPLITS)
        return f'{"jsonl" if is_prepared else "hf"}:{source}'
    return f'hf:{source}' if _HUB_ID.fullmatch(source) else ''

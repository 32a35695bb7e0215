"""Checks that no id, case or pair is in two splits of a source, without reading its records."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from bsft_jax.data import generated, sources
from bsft_jax.errors import UserError
from bsft_jax.records import readers
from bsft_jax.records.record import SPLITS

# (kind, name) of an id, a case or a pair → its split.
_SplitOf = dict[tuple[str, str], str]
_NAMES = {'record': 'id', 'case': 'case_id', 'pair': 'pair_id'}


def check_apart(source: str) -> None:
    """Raises UserError for an id, a case or a pair that is in two splits of a source.

    Records that name no split are in none. The splits of a generated source are by case.
    """
    parts = [part for part, _ in sources.parse_mixture(source)]
    split_of: _SplitOf = {}
    for part in parts:
        scheme, _, rest = part.partition(':')
        if generated.is_generated(source):
            continue
        if scheme == 'jsonl':
            files = [pathlib.Path(rest, f'{split}.jsonl') for split in SPLITS]
            stats = [path.stat() for path in (pathlib.Path(rest), *files) if path.exists()]
            own = _split_of_names(part, tuple((s.st_mtime_ns, s.st_size) for s in stats))
        else:
            own = _join_names(part, _names_in(part))
        _join_names(part, ((*key, split) for key, split in own.items()), split_of)


@functools.lru_cache(maxsize=4)
def _split_of_names(source: str, stamps: tuple[tuple[int, int], ...]) -> _SplitOf:
    """Returns the splits of the names in a source, once for the same state of its files."""
    del stamps
    return _join_names(source, _names_in(source))


def _join_names(
    source: str, names: Iterator[tuple[str, str, str]], known: _SplitOf | None = None
) -> _SplitOf:
    """Adds (kind, name, split) to `known` and returns it; raises UserError for a second split."""
    known = {} if known is None else known
    for kind, name, split in names:
        if (first := known.setdefault((kind, name), split)) != split:
            raise UserError(
                f'{kind} {name!r} is in {first} and in {split}',
                where=source,
                fix='keep it in one split; prepare does so with records that name none',
            )
    return known


def _names_in(source: str) -> Iterator[tuple[str, str, str]]:
    """Yields (kind, name, split) for every id, case and pair of a source, without the records."""
    scheme, _, rest = source.partition(':')
    if generated.is_generated(source):
        rows = ((r.split, vars(r)) for r in generated.generate_records(source))
    elif scheme in sources.SPLIT_READERS:
        by_split = sources.SPLIT_READERS[scheme](rest)
        rows = ((split, row) for split, own in by_split.items() for row in _named_rows(own))
    elif pathlib.Path(rest).is_dir():
        by_file = {split: pathlib.Path(rest, f'{split}.jsonl') for split in SPLITS}
        rows = (
            (split, row)
            for split, file in by_file.items()
            if sources.has_records(file)
            for _, row in readers.read_jsonl_rows(file)
        )
    else:
        rows = (('', row) for _, row in readers.read_jsonl_rows(rest))
    for split, row in rows:
        own = row.get('split') or split if isinstance(row, dict) else ''
        for kind, field in _NAMES.items() if own else ():
            if isinstance(name := row.get(field), str) and name:
                yield kind, name, own


def _named_rows(rows: readers.Rows) -> Iterator[Any]:
    """Yields the rows of a table; none where it has no column for a name."""
    for _, row in rows:
        if row.keys().isdisjoint(_NAMES.values()):
            return
        yield row

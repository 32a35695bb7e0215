"""Sources that are simulated: the tasks, at one or several difficulty levels, and pretraining.

A name is `SCHEME:CASES[:SEED]`; that of the tasks may go on with their difficulty levels, and then
with categories, as in `synthetic:1000:0:1,2,3:error_correction`. A case gives its records at each
level and is in one split.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from bsft_jax.behaviorbench import splits
from bsft_jax.behaviorbench.builders import records_of
from bsft_jax.behaviorbench.builders.difficulty import (
    DEFAULT_DIFFICULTY,
    DIFFICULTIES,
    TESTED_DIFFICULTIES,
)
from bsft_jax.behaviorbench.pretraining import conversations
from bsft_jax.behaviorbench.simulator.cases import simulate
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record
from bsft_jax.records.taxonomy import CATEGORIES, group_of

TASKS = 'synthetic'
PRETRAINING = {
    'synthetic_lists': conversations.list_records,
    'synthetic_sheets': conversations.sheet_records,
    'synthetic_text': conversations.conversation_records,
}
SCHEMES = (TASKS, *PRETRAINING)
SYNTAX = {scheme: f'{scheme}:CASES[:SEED]' for scheme in SCHEMES}
SYNTAX[TASKS] = f'{TASKS}:CASES[:SEED[:LEVELS[:CATEGORIES]]]'
TESTED_LEVELS = ', '.join(map(str, TESTED_DIFFICULTIES))


class _Name(NamedTuple):
    """Holds the parts of a source's name; `difficulties` and `categories` are in their order."""

    scheme: str
    num_cases: int
    seed: int
    difficulties: tuple[int, ...]
    categories: tuple[str, ...]


def is_generated(source: str) -> bool:
    """Returns whether a source is simulated; its splits are by case."""
    return source.partition(':')[0] in SCHEMES


def _parse(source: str) -> _Name:
    scheme, _, rest = source.partition(':')
    match = re.fullmatch(r'(\d+)(?::(\d+)(?::(\d(?:,\d)*)(?::([\w,]+))?)?)?', rest)
    cases, seed, levels, named = match.groups() if match else ('0', None, None, None)
    difficulties = tuple(map(int, levels.split(','))) if levels else (DEFAULT_DIFFICULTY,)
    categories = tuple(named.split(',')) if named else tuple(CATEGORIES)
    for category in categories:
        # Raises for one that does not exist.
        group_of(category)
    # Both are in order and none is named twice, so that a data set has one name.
    rising = tuple(level for level in DIFFICULTIES if level in difficulties)
    ordered = tuple(category for category in CATEGORIES if category in categories)
    in_order = (difficulties, categories) == (rising, ordered)
    if int(cases) < 3 or not in_order or (levels and scheme != TASKS):
        fix = f'write {SYNTAX[scheme]} with 3 cases or more'
        if scheme == TASKS:
            fix += f', levels such as {",".join(map(str, DIFFICULTIES))}'
            fix += f' and categories such as {",".join(ordered[:2])}'
        raise UserError(f'cannot read {source!r}', where='data source', fix=fix)
    return _Name(scheme, int(cases), int(seed or 0), difficulties, categories)


def generate_records(source: str) -> list[Record]:
    """Returns the records of all splits of a generated source.

    The test split has wordings that training lacks, and only tasks of `TESTED_DIFFICULTIES`.

    Raises:
      UserError: for a name that cannot be read.
    """
    name = _parse(source)
    if name.scheme in PRETRAINING:
        records = PRETRAINING[name.scheme](name.num_cases, name.seed)
        assigned = splits.assign_splits([record.case_id for record in records], name.seed)
        pairs = zip(records, assigned, strict=True)
        return [dataclasses.replace(record, split=split) for record, split in pairs]
    cases = [simulate(name.seed, index) for index in range(name.num_cases)]
    assigned = splits.assign_splits([case.case_id for case in cases], name.seed)
    return [
        dataclasses.replace(record, split=split)
        for case, split in zip(cases, assigned, strict=True)
        for difficulty in name.difficulties
        if split != 'test' or difficulty in TESTED_DIFFICULTIES
        for record in records_of(
            case, held_out=split == 'test', difficulty=difficulty, categories=name.categories
        )
    ]

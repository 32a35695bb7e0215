"""Which records are scored: those with options and an answer, of a subset, up to a limit."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from bsft_jax.behaviorbench import sampling, sources
from bsft_jax.behaviorbench.records import Record, read_jsonl
from bsft_jax.errors import UserError

SUBSETS = ('all', 'hard')


def scorable(records: Sequence[Record], source: str) -> list[Record]:
    """The records that can be scored: a source may hold conversations and open questions, too.

    One without an id is named by its place, so that it is the same one whatever is left out later.
    Raises UserError when none can be.
    """
    tasks = [
        record if record.id else dataclasses.replace(record, id=f'#{i}')
        for i, record in enumerate(records)
        if record.options and record.answer is not None
    ]
    if not tasks:
        raise UserError(
            'no record has options and an answer to score', where=source, fix='name a source of tasks'
        )
    return tasks


def choose(records: Sequence[Record], source: str, subset: str, limit: int) -> list[Record]:
    """At most `limit` records of a subset, evenly spread; raises UserError for an unknown or empty one."""
    if subset not in SUBSETS:
        raise UserError(f'{subset!r} is not one of {", ".join(SUBSETS)}', where='--subset')
    chosen = [record for record in records if subset == 'all' or record.hard]
    if not chosen:
        raise UserError(f'no record of {source} is hard', where=f'--subset={subset}')
    return sampling.spread(chosen, limit)


def shared_by_splits(source: str) -> str:
    """What to say of files whose records name no split, and so are trained on and tested on; '' of others."""
    said = []
    for part, _ in sources.parts_of(source):
        scheme, _, path = part.partition(':')
        if scheme != 'jsonl' or not pathlib.Path(path).is_file():
            continue
        if number := sum(not record.split for record in read_jsonl(path)):
            said.append(
                f'warning: {number} records of {path} name no split, so what trains is what is tested; '
                'prepare assigns splits'
            )
    return '\n'.join(said)

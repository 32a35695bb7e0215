"""Records to score: those with options and an answer, of a subset, up to a limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from bsft_jax.data import sources, split_names
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.records.record import Record, evenly_spaced_subset, with_ids

# Subset -> whether a record is in it; `difficulty=N` names one more for each level.
SUBSETS: dict[str, Callable[[Record], bool]] = {
    'all': lambda record: True,
    'hard': lambda record: record.hard,
}


def parse_subset(subset: str) -> Callable[[Record], bool]:
    """Returns whether a record is in a subset; raises UserError for an unknown subset."""
    if match := re.fullmatch('difficulty=([1-9])', subset):
        return lambda record: record.difficulty == int(match[1])
    if subset not in SUBSETS:
        known = ', '.join([*SUBSETS, 'difficulty=N'])
        raise UserError(f'{subset!r} is not one of {known}', where='--subset')
    return SUBSETS[subset]


def scorable(records: Sequence[Record], source: str) -> list[Record]:
    """Returns the records that can be scored; a source may hold conversations and open questions.

    A record without an id gets its index as one, so that it stays the same whatever is left out
    later. Raises UserError when no record can be scored.
    """
    tasks = [record for record in with_ids(records) if record.options and record.answer is not None]
    if not tasks:
        raise UserError(
            'no record has options and an answer to score',
            where=source,
            fix='name a source of tasks',
        )
    return tasks


def load_scorable(source: str, split: str) -> list[Record]:
    """Loads the records of a split that can be scored, and logs how many cannot.

    Raises UserError also where the splits of the source share an id, a case or a pair.
    """
    records = sources.load_records(source, split)
    split_names.check_apart(source)
    tasks = scorable(records, source)
    if missing := len(records) - len(tasks):
        processes.log_first(
            f'{missing} of {len(records)} records have no options to score, or no answer'
        )
    return tasks


def choose_records(records: Sequence[Record], source: str, subset: str, limit: int) -> list[Record]:
    """Returns at most `limit` records of a subset, whole cases, evenly spaced; 0 takes all.

    Raises UserError for an unknown or empty subset.
    """
    chosen = list(filter(parse_subset(subset), records))
    if not chosen:
        raise UserError(f'no record of {source} is in it', where=f'--subset={subset}')
    return evenly_spaced_subset(chosen, limit)


def unsplit_warning(source: str) -> str:
    """Returns a warning for sets whose records name no split, which serve training and test alike.

    Returns an empty string for any other source.
    """
    warnings = []
    for part, _ in sources.parse_mixture(source):
        if number := sources.count_without_split(part):
            path = part.partition(':')[2]
            warnings.append(
                f'warning: {number} records of {path} name no split, so what trains is what is '
                'tested; prepare assigns splits'
            )
    return '\n'.join(warnings)

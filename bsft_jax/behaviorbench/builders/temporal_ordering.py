"""temporal_ordering: which event of a chart came first, last, or right behind another."""

from __future__ import annotations

import random

from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message, Record

CATEGORY = 'temporal_ordering'
HARD_SPAN = 5  # days from the first event to the last; at most that many is hard


def build(case: Case) -> list[Record]:
    """One record; the chart lists the events out of order, the options in another order."""
    rng = random.Random(f'{CATEGORY}/{case.case_id}')
    ordered = [event for _, event in case.timeline]
    asked = rng.choice(('first', 'last', 'next'))
    if asked == 'next':
        before = rng.randrange(3)
        question, right = f'What came right after the {ordered[before]}?', ordered[before + 1]
    else:
        question = f'Which came {asked}?'
        right = ordered[0 if asked == 'first' else -1]
    shown = list(case.timeline)
    rng.shuffle(shown)
    options = list(ordered)
    rng.shuffle(options)
    chart = ', '.join(f'{event} on day {day}' for day, event in shown)
    day = dict((event, day) for day, event in case.timeline)[right]
    return [
        Record(
            id=f'{case.case_id}-{CATEGORY}',
            case_id=case.case_id,
            source='synthetic',
            license='CC0-1.0',
            category=CATEGORY,
            group='reactive',
            behavior='reactive',
            hard=case.timeline[-1][0] - case.timeline[0][0] <= HARD_SPAN,
            messages=(Message('user', f'{case.patient}: {chart}. {question}', case.doctor),),
            options=tuple(options),
            option_behaviors=('reactive',) * 4,
            answer=options.index(right),
            rationale=f'The {right} was on day {day}.',
        )
    ]

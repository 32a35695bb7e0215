"""temporal_ordering: the event of a chart that came first, last, or right after another.

The chart lists the events out of order. Hard: at most `HARD_SPAN` days from first to last.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders.scene import (
    QA,
    CategorySpec,
    Facts,
    Gate,
    Phrasings,
    Scene,
    Wording,
)
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('temporal_ordering', extra_position=6)

HARD_SPAN = 5
CHART = Phrasings(
    (
        'Chart of {patient}: {chart}.',
        '{patient} had {chart}.',
        '{patient}: {chart}.',
        'The chart of {patient} lists {chart}.',
        'On record for {patient}: {chart}.',
        'We know of {chart} in {patient}.',
        'Course of {patient}: {chart}.',
    ),
    ('In the chart of {patient}: {chart}.', '{patient} came with {chart}.'),
)
IRRELEVANT = ('no allergies', 'good sleep', 'a good appetite', 'no home drugs')
FIRST = Phrasings(
    ('Which came first?', 'What was first?', 'What happened first?', 'Which of these was first?'),
    ('What came first?',),
)
LAST = Phrasings(
    ('Which came last?', 'What was last?', 'What happened last?', 'Which of these was last?'),
    ('What came last?',),
)
NEXT = Phrasings(
    (
        'What came right after the {event}?',
        'What was next after the {event}?',
        'What followed right after the {event}?',
        'Which of these was next after the {event}?',
    ),
    ('What came next after the {event}?',),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns one scene: a chart of four events and a question about their order."""
    events = [event for _, event in case.timeline]
    day_of = {event: day for day, event in case.timeline}
    dated = [f'{event} on day {day_of[event]}' for event in events]
    index = wording.rng.randrange(3)
    next_question = wording.pick(NEXT).format(event=events[index])
    question, right = wording.rng.choice(
        (
            (wording.pick(FIRST), events[0]),
            (wording.pick(LAST), events[-1]),
            (next_question, events[index + 1]),
        )
    )
    listed = wording.shuffled(*events)
    earlier, later = sorted(wording.rng.sample(range(4), 2))
    told = tuple(f'{event} on day {day_of[event]}' for event in listed)
    facts = Facts(
        case.doctor,
        told=told,
        # As listed: in the order of time their places would tell what the days should.
        alone=told,
        irrelevant=IRRELEVANT,
        form=wording.pick(CHART).format(patient=case.patient, chart='{facts}'),
        joiners=(', ', ', '),
        charted=tuple(f'Day {day_of[event]}: {event}.' for event in listed),
    )
    choices = ' or '.join(wording.shuffled(events[earlier], events[later]))
    return [
        Scene(
            facts,
            (right, 'reactive'),
            tuple((event, 'reactive') for event in events if event != right),
            f'The {right} was on day {day_of[right]}.',
            question=question,
            hard=case.timeline[-1][0] - case.timeline[0][0] <= HARD_SPAN,
            qa=(
                QA('Which came first?', f'{dated[0]}.', Gate.BEFORE_OR_AFTER),
                QA('Which came last?', f'{dated[-1]}.', Gate.BEFORE_OR_AFTER),
                QA(
                    f'What came right after the {events[index]}?',
                    f'{dated[index + 1]}.',
                    Gate.BEFORE_OR_AFTER,
                ),
                QA(f'When was the {events[later]}?', f'{dated[later]}.', Gate.RETRIEVAL),
                QA(
                    f'What was on day {day_of[events[earlier]]}?',
                    f'{dated[earlier]}.',
                    Gate.RETRIEVAL,
                ),
                QA(f'Which was earlier, {choices}?', f'{dated[earlier]}.', Gate.BEFORE_OR_AFTER),
                QA('In order?', f'{", ".join(events)}.', Gate.BEFORE_OR_AFTER),
            ),
        )
    ]

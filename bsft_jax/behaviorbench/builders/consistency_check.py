"""consistency_check: the draft puts two events in another order than the chart.

In the twin the two events' days are exchanged. Hard: the events are one day apart.
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
    draft_note,
    review_scene,
)
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('consistency_check', extra_position=4)

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
ORDER = Phrasings(
    (
        'The {first} came before the {second}.',
        'First {first}, then {second}.',
        'The {first} was earlier than the {second}.',
        'The {second} was later than the {first}.',
        'The {second} followed the {first}.',
        'After the {first} there was the {second}.',
        'Before the {second} there was the {first}.',
        'In order: {first}, {second}.',
    ),
    ('The {second} came after the {first}.', 'It was first {first} and then {second}.'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins: the chart contradicts the draft's order of two events, then confirms it."""
    start = wording.rng.randrange(3)
    (early, first), (late, second) = case.timeline[start : start + 2]
    if wording.rng.random() < 0.5:
        first, second = second, first
    # The draft puts `first` before `second`; in the first scene the chart has them reversed.
    chart, listed = wording.pick(CHART), wording.shuffled(first, second)
    note = draft_note(case, wording, wording.pick(ORDER).format(first=first, second=second))
    others = [(day, event) for day, event in case.timeline if event not in listed]
    scenes = []
    for day_of in ({first: late, second: early}, {first: early, second: late}):
        dated = {event: f'{event} on day {day_of[event]}' for event in listed}
        needs_fix = day_of[second] < day_of[first]
        earlier, later = (second, first) if needs_fix else (first, second)
        facts = Facts(
            case.nurse,
            told=tuple(dated.values()),
            # As listed: in the order of time their places would tell what the days should.
            alone=tuple(dated.values()),
            irrelevant=tuple(f'{event} on day {day}' for day, event in others),
            form=chart.format(patient=case.patient, chart='{facts}'),
            charted=tuple(f'Day {day_of[event]}: {event}.' for event in listed),
        )
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Put {second} first',
                f'Put {first} first',
                needs_fix=needs_fix,
                rationale=f'The {earlier} was on day {early}, the {later} on day {late}.',
                must_mention=(second,),
                hard=late - early == 1,
                qa=(
                    QA('Which came first?', f'{earlier} on day {early}.', Gate.BEFORE_OR_AFTER),
                    QA('Which came last?', f'{later} on day {late}.', Gate.BEFORE_OR_AFTER),
                    QA(
                        f'When was the {first}?',
                        f'{first} on day {day_of[first]}.',
                        Gate.RETRIEVAL,
                    ),
                    QA(
                        f'When was the {second}?',
                        f'{second} on day {day_of[second]}.',
                        Gate.RETRIEVAL,
                    ),
                    QA(f'What was on day {early}?', f'{earlier} on day {early}.', Gate.RETRIEVAL),
                    QA('Which does the draft put first?', f'{first}.', Gate.COPYING),
                    QA(
                        'Is the order in the draft right?',
                        f'{"No" if needs_fix else "Yes"}, {earlier} on day {early}.',
                    ),
                ),
            )
        )
    return scenes

"""consistency_check: a draft tells two events in another order than the chart.

In the twin the two events' days change places. Hard: the events are one day apart.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

CHART = Phrasings(
    ('Chart of {patient}: {chart}.', '{patient} had {chart}.', '{patient}: {chart}.'),
    ('In the chart of {patient}: {chart}.', '{patient} came with {chart}.'),
)
TOLD = Phrasings(
    ('The {first} came before the {second}.', 'First {first}, then {second}.'),
    ('The {second} came after the {first}.', 'It was first {first} and then {second}.'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    at = words.rng.randrange(3)
    (early, first), (late, second) = case.timeline[at : at + 2]
    if words.rng.random() < 0.5:
        first, second = second, first
    # The draft tells `first` before `second`; in the first scene the chart has them the other way.
    chart, listed = words.pick(CHART), words.order(first, second)
    note = scene.draft(case, words, words.pick(TOLD).format(first=first, second=second))
    scenes = []
    for day_of in ({first: late, second: early}, {first: early, second: late}):
        text = ' and '.join(f'{event} on day {day_of[event]}' for event in listed)
        wrong = day_of[second] < day_of[first]
        earlier, later = (second, first) if wrong else (first, second)
        scenes.append(
            scene.review(
                case,
                (Message('user', chart.format(patient=case.patient, chart=text), case.nurse), note),
                f'Put {second} first',
                f'Put {first} first',
                wrong=wrong,
                rationale=f'The {earlier} was on day {early}, the {later} on day {late}.',
                mention=(second,),
                hard=late - early == 1,
                asks=(
                    ('Which came first?', f'{earlier} on day {early}.'),
                    ('Which came last?', f'{later} on day {late}.'),
                    (f'When was the {first}?', f'{first} on day {day_of[first]}.'),
                    (f'When was the {second}?', f'{second} on day {day_of[second]}.'),
                    (f'What was on day {early}?', f'{earlier} on day {early}.'),
                    ('Which does the draft put first?', f'{first}.'),
                    (
                        'Is the order in the draft right?',
                        f'{"No" if wrong else "Yes"}, {earlier} on day {early}.',
                    ),
                ),
            )
        )
    return scenes

"""temporal_ordering: which event of a chart came first, last, or right behind another.

The chart lists the events out of order. Hard: at most `HARD_SPAN` days from first to last.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

HARD_SPAN = 5
CHART = Phrasings(
    ('{patient}: {chart}.', 'Chart of {patient}: {chart}.', '{patient} had {chart}.'),
    ('In the chart of {patient}: {chart}.', '{patient} came with {chart}.'),
)
FIRST = Phrasings(('Which came first?', 'What was first?'), ('What came first?',))
LAST = Phrasings(('Which came last?', 'What was last?'), ('What came last?',))
NEXT = Phrasings(
    ('What came right after the {event}?', 'What was next after the {event}?'),
    ('What came next after the {event}?',),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    events = [event for _, event in case.timeline]
    day_of = {event: day for day, event in case.timeline}
    at = words.rng.randrange(3)
    next_ = words.pick(NEXT).format(event=events[at])
    question, right = words.rng.choice(
        ((words.pick(FIRST), events[0]), (words.pick(LAST), events[-1]), (next_, events[at + 1]))
    )
    chart = ', '.join(f'{event} on day {day_of[event]}' for event in words.order(*events))
    one, two = sorted(words.rng.sample(range(4), 2))
    return [
        scene.Scene(
            (Message('user', words.pick(CHART).format(patient=case.patient, chart=chart), case.doctor),),
            (right, 'reactive'),
            tuple((event, 'reactive') for event in events if event != right),
            f'The {right} was on day {day_of[right]}.',
            question=question,
            hard=case.timeline[-1][0] - case.timeline[0][0] <= HARD_SPAN,
            asks=(
                ('Which came first?', f'{events[0]} on day {day_of[events[0]]}.'),
                ('Which came last?', f'{events[-1]} on day {day_of[events[-1]]}.'),
                (
                    f'What came right after the {events[at]}?',
                    f'{events[at + 1]} on day {day_of[events[at + 1]]}.',
                ),
                (f'When was the {events[two]}?', f'{events[two]} on day {day_of[events[two]]}.'),
                (f'What was on day {day_of[events[one]]}?', f'{events[one]} on day {day_of[events[one]]}.'),
                (
                    f'Which was earlier, {" or ".join(words.order(events[one], events[two]))}?',
                    f'{events[one]} on day {day_of[events[one]]}.',
                ),
                ('In order?', f'{", ".join(events)}.'),
            ),
        )
    ]

"""critical_value_alert: a value lies beyond the limit at which the laboratory calls.

Beside it stands a quantity without a limit. In the twin the two values change places, and both
are harmless. Hard: the critical value is within a twentieth of the limit.
"""

from __future__ import annotations

from bsft_jax.behaviorbench import medicine
from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

LABS = Phrasings(
    ('Labs of {patient}: {labs}.', 'Back for {patient}: {labs}.', '{patient}: {labs}.'),
    ('New labs for {patient}: {labs}.', 'The labs of {patient} are back: {labs}.'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    critical, (beyond, safe) = case.critical, case.critical_values
    labs, note, swapped = words.pick(LABS), scene.draft(case, words), words.rng.random() < 0.5
    limit = critical.show(critical.limit)
    another = words.rng.choice(sorted({c.name for c in medicine.CRITICALS} - {critical.name}))
    scenes = []
    for value, other in ((beyond, safe), (safe, beyond)):
        shown, beside = critical.show(value), critical.show(other)
        parts = [
            f'{critical.name} (call {critical.side} {limit}) is {shown}',
            f'{critical.beside} (no call) is {beside}',
        ]
        if swapped:
            parts.reverse()
        wrong = value == beyond
        scenes.append(
            scene.review(
                case,
                (
                    Message('user', labs.format(patient=case.patient, labs=' and '.join(parts)), case.nurse),
                    note,
                ),
                f'Call about {critical.name}',
                f'Call about {another}',
                wrong=wrong,
                rationale=f'{critical.name} {shown} is {"" if wrong else "not "}{critical.side} {limit}.',
                mention=(critical.name,),
                hard=20 * abs(beyond - critical.limit) <= critical.limit,
                asks=(
                    (f'What is the {critical.name}?', f'{shown}.'),
                    (f'What is the {critical.beside}?', f'{beside}.'),
                    (f'What is the limit for {critical.name}?', f'{critical.side} {limit}.'),
                    (
                        f'Is {critical.name} {critical.side} its limit?',
                        f'{"Yes" if wrong else "No"}, {shown}.',
                    ),
                    (f'Which value is {shown}?', f'{critical.name}.'),
                ),
            )
        )
    return scenes

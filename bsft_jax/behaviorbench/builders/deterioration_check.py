"""deterioration_check: one vital sign alone calls for an urgent review (3 points of NEWS2).

Beside it stands a number that is harmless at both values. In the twin the two change places.
Hard: the red value is within 3 of the limit.
"""

from __future__ import annotations

from bsft_jax.behaviorbench import medicine
from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

VITALS = Phrasings(
    ('Vitals of {patient}: {vitals}.', '{patient} now: {vitals}.', '{patient}: {vitals}.'),
    ('New vitals of {patient}: {vitals}.', 'For {patient} now: {vitals}.'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    vital, (red, calm) = case.vital, case.vital_values
    vitals, note, swapped = words.pick(VITALS), scene.draft(case, words), words.rng.random() < 0.5
    another = next(other.name for other in medicine.RED_VITALS if other.name != vital.name)
    scenes = []
    for value, other in ((red, calm), (calm, red)):
        parts = [f'{vital.name} is {value}', f'{vital.beside} is {other}']
        if swapped:
            parts.reverse()
        wrong = value == red
        text = vitals.format(patient=case.patient, vitals=' and '.join(parts))
        scenes.append(
            scene.review(
                case,
                (Message('user', text, case.nurse), note),
                f'Call for {vital.name}',
                f'Call for {another}',
                wrong=wrong,
                rationale=f'{vital.name} {value} is {"urgent" if wrong else "not urgent"}.',
                mention=(vital.name,),
                hard=abs(red - vital.limit) <= 3,
                asks=(
                    (f'What is the {vital.name}?', f'{value}.'),
                    (f'What is the {vital.beside}?', f'{other}.'),
                    (f'What is {value}?', f'The {vital.name}.'),
                    (f'Is the {vital.name} urgent?', f'{"Yes" if wrong else "No"}, {value}.'),
                ),
            )
        )
    return scenes

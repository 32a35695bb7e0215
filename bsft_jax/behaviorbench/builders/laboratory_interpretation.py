"""laboratory_interpretation: which of two values is outside its printed range, and on which side.

Hard: the value is within a tenth of the limit it passes.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

LABS = Phrasings(
    ('Labs of {patient}: {labs}.', 'Back for {patient}: {labs}.', '{patient}: {labs}.'),
    ('New labs for {patient}: {labs}.', 'The labs of {patient} are back: {labs}.'),
)
QUESTION = Phrasings(
    ('What is abnormal?', 'Which is out of range?', 'What stands out here?'),
    ('Which value is abnormal?', 'What is out of range here?'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    parts, asks, right, rationale, hard = [], [], '', '', False
    for lab, value in case.labs:
        low, high, shown = lab.show(lab.low), lab.show(lab.high), lab.show(value)
        parts.append(f'{lab.name} is {shown} ({low} to {high})')
        flag = 'low' if value < lab.low else 'high' if value > lab.high else 'normal'
        asks += [
            (f'What is the {lab.name}?', f'{shown}.'),
            (f'Is {lab.name} low, normal or high?', f'{flag}.'),
            (f'What is the range of {lab.name}?', f'{low} to {high}.'),
        ]
        if flag != 'normal':
            limit = lab.low if flag == 'low' else lab.high
            right, rationale = f'{flag} {lab.name}', f'{lab.name} is {shown}, {flag}.'
            hard = 10 * abs(value - limit) <= limit
    options = [f'{flag} {lab.name}' for lab, _ in case.labs for flag in ('low', 'high')]
    text = words.pick(LABS).format(patient=case.patient, labs=' and '.join(parts))
    return [
        scene.Scene(
            (Message('user', text, case.doctor),),
            (right, 'reactive'),
            tuple((option, 'reactive') for option in options if option != right),
            rationale,
            question=words.pick(QUESTION),
            hard=hard,
            asks=(*asks, ('Which value is abnormal?', f'{right}.'), ('What should worry us?', f'{right}.')),
        )
    ]

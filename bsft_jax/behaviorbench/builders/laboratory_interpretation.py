"""laboratory_interpretation: the value that is outside its printed range, and on which side.

Hard: the value is within a tenth of the limit that it exceeds or falls below.
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
from bsft_jax.behaviorbench.simulator import medicine
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('laboratory_interpretation')

LABS = Phrasings(
    (
        'Labs of {patient}: {labs}.',
        'Back for {patient}: {labs}.',
        '{patient}: {labs}.',
        'Results of {patient}: {labs}.',
        'From the lab, for {patient}: {labs}.',
        'In {patient} we measured this: {labs}.',
        'The blood of {patient}: {labs}.',
    ),
    ('New labs for {patient}: {labs}.', 'The labs of {patient} are back: {labs}.'),
)
QUESTION = Phrasings(
    (
        'What is abnormal?',
        'Which is out of range?',
        'What stands out here?',
        'Which one is not normal?',
        'What do you see in these values?',
        'Is something too low or too high?',
    ),
    ('Which value is abnormal?', 'What is out of range here?'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns one scene: two values with their ranges and a question for the abnormal one."""
    told, charted, qa, right, rationale, hard = {}, [], [], '', '', False
    for lab, value in case.labs:
        low, high, shown = lab.format(lab.low), lab.format(lab.high), lab.format(value)
        told[lab.name] = f'{lab.name} is {shown} ({low} to {high})'
        charted.append(medicine.chart_value(lab.name, shown, f'{low} to {high}'))
        flag = 'low' if value < lab.low else 'high' if value > lab.high else 'normal'
        qa += [
            QA(f'What is the {lab.name}?', f'{shown}.', Gate.RETRIEVAL),
            QA(f'Is {lab.name} low, normal or high?', f'{flag}.', Gate.LOW_OR_HIGH),
            QA(f'What is the range of {lab.name}?', f'{low} to {high}.', Gate.RETRIEVAL),
        ]
        if flag != 'normal':
            limit = lab.low if flag == 'low' else lab.high
            right, rationale = f'{flag} {lab.name}', f'{lab.name} is {shown}, {flag}.'
            hard = 10 * abs(value - limit) <= limit
    options = [f'{flag} {lab.name}' for lab, _ in case.labs for flag in ('low', 'high')]
    facts = Facts(
        case.doctor,
        told=tuple(told.values()),
        alone=(told[right.partition(' ')[2]],),
        irrelevant=tuple(
            f'{lab.name} is {lab.format((lab.low + lab.high) // 2)} '
            f'({lab.format(lab.low)} to {lab.format(lab.high)})'
            for lab in medicine.ANALYTES
            if lab.name not in told
        ),
        form=wording.pick(LABS).format(patient=case.patient, labs='{facts}'),
        charted=tuple(charted),
        section='findings',
        clashes=('labs',),
    )
    return [
        Scene(
            facts,
            (right, 'reactive'),
            tuple((option, 'reactive') for option in options if option != right),
            rationale,
            question=wording.pick(QUESTION),
            hard=hard,
            qa=(
                *qa,
                QA('Which value is abnormal?', f'{right}.', Gate.LOW_OR_HIGH),
                QA('What should worry us?', f'{right}.'),
            ),
        )
    ]

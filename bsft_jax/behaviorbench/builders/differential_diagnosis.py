"""differential_diagnosis: the most likely diagnosis, the only one that has both findings.

Hard: another option shares one of the findings.
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

CATEGORY = CategorySpec('differential_diagnosis')

FINDINGS = Phrasings(
    (
        '{patient} has {findings}.',
        'Findings in {patient}: {findings}.',
        '{patient}: {findings}.',
        '{patient} presents with {findings}.',
        'Seen in {patient}: {findings}.',
        'There is {findings} in {patient}.',
        'We found {findings} in {patient}.',
    ),
    ('In {patient} we see {findings}.', '{patient} came with {findings}.'),
)
IRRELEVANT = ('no allergies', 'good sleep', 'a good appetite', 'no home drugs')
QUESTION = Phrasings(
    (
        'What is most likely?',
        'Which diagnosis fits?',
        'What does {patient} have?',
        'What is your diagnosis?',
        'What explains this?',
        'What do you think it is?',
    ),
    ('Which diagnosis is most likely?', 'What fits best?'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns one scene: two findings and a question for the diagnosis."""
    findings = wording.shuffled(*case.findings)
    others = [name for name in medicine.DIAGNOSES if name != case.diagnosis]
    sharing = [name for name in others if set(medicine.DIAGNOSES[name]) & set(findings)]
    hard = bool(sharing) and wording.rng.random() < 0.7
    wrong = wording.rng.sample([name for name in others if name not in sharing], 3)
    if hard:
        wrong[0] = wording.rng.choice(sharing)
    form = wording.pick(FINDINGS).format(patient=case.patient, findings='{facts}')
    third = next(f for f in medicine.DIAGNOSES[case.diagnosis] if f not in findings)
    diagnosis = f'{case.diagnosis}.'
    return [
        Scene(
            Facts(
                case.doctor,
                told=tuple(findings),
                alone=(*findings, third),
                irrelevant=IRRELEVANT,
                form=form,
                charted=tuple(f'Pos. for {finding}.' for finding in findings),
                clashes=('vitals', 'labs', 'exam'),
            ),
            (case.diagnosis, 'reactive'),
            tuple((name, 'reactive') for name in wrong),
            f'{findings[0]} and {findings[1]} fit {case.diagnosis}.',
            question=wording.pick(QUESTION).format(patient=case.patient),
            hard=hard,
            qa=(
                QA('What is it?', diagnosis, Gate.FINDINGS_TO_DIAGNOSIS),
                QA(f'What else is seen in {case.diagnosis}?', f'{third}.'),
                QA(
                    f'What do {findings[0]} and {findings[1]} suggest?',
                    diagnosis,
                    Gate.FINDINGS_TO_DIAGNOSIS,
                ),
                QA(f'Is it {case.diagnosis} or {wrong[0]}?', diagnosis, Gate.FINDINGS_TO_DIAGNOSIS),
                QA(f'Is it {wrong[1]} or {case.diagnosis}?', diagnosis, Gate.FINDINGS_TO_DIAGNOSIS),
            ),
        )
    ]

"""differential_diagnosis: the most likely diagnosis of two findings that only it has both of.

Hard: another option shares one of the findings.
"""

from __future__ import annotations

from bsft_jax.behaviorbench import medicine
from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

FINDINGS = Phrasings(
    ('{patient} has {findings}.', 'Findings in {patient}: {findings}.', '{patient}: {findings}.'),
    ('In {patient} we see {findings}.', '{patient} came with {findings}.'),
)
QUESTION = Phrasings(
    ('What is most likely?', 'Which diagnosis fits?', 'What does {patient} have?'),
    ('Which diagnosis is most likely?', 'What fits best?'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    findings = words.order(*case.findings)
    others = [name for name in medicine.DIAGNOSES if name != case.diagnosis]
    sharing = [name for name in others if set(medicine.DIAGNOSES[name]) & set(findings)]
    hard = bool(sharing) and words.rng.random() < 0.7
    wrong = words.rng.sample([name for name in others if name not in sharing], 3)
    if hard:
        wrong[0] = words.rng.choice(sharing)
    text = words.pick(FINDINGS).format(patient=case.patient, findings=' and '.join(findings))
    third = next(f for f in medicine.DIAGNOSES[case.diagnosis] if f not in findings)
    return [
        scene.Scene(
            (Message('user', text, case.doctor),),
            (case.diagnosis, 'reactive'),
            tuple((name, 'reactive') for name in wrong),
            f'{findings[0]} and {findings[1]} fit {case.diagnosis}.',
            question=words.pick(QUESTION).format(patient=case.patient),
            hard=hard,
            asks=(
                ('What is it?', f'{case.diagnosis}.'),
                (f'What else is seen in {case.diagnosis}?', f'{third}.'),
                (f'What do {findings[0]} and {findings[1]} suggest?', f'{case.diagnosis}.'),
                (f'Is it {case.diagnosis} or {wrong[0]}?', f'{case.diagnosis}.'),
                (f'Is it {wrong[1]} or {case.diagnosis}?', f'{case.diagnosis}.'),
            ),
        )
    ]

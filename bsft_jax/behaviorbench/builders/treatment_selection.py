"""treatment_selection: the first choice for a problem, given what the patient, not the relative, must avoid.

Hard: something about the patient forbids the first choice.
"""

from __future__ import annotations

from bsft_jax.behaviorbench import medicine
from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

PROBLEM = Phrasings(
    ('{patient} has {problem}.', 'We treat {patient} for {problem}.', '{patient} needs help for {problem}.'),
    ('{patient} came for {problem}.', 'Now {patient} has {problem}.'),
)
QUESTION = Phrasings(
    (
        'What is the first choice for {patient}?',
        'Which drug is first for {patient}?',
        'What comes first here?',
    ),
    ('Which drug is the first choice for {patient}?', 'What is first for {patient}?'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    treatment, (forbids, other) = case.treatment, case.treated
    hard = words.rng.random() < 0.5
    mine, theirs = (forbids, other) if hard else (other, forbids)
    facts = words.order(f'{case.patient} {mine.clause}.', f'{case.relative} {theirs.clause}.')
    right, avoided = (treatment.instead, treatment.first) if hard else (treatment.first, treatment.instead)
    another = words.rng.choice(
        [t for t in medicine.TREATMENTS if t != treatment and t.problem not in treatment.apart]
    )
    problem = words.pick(PROBLEM).format(patient=case.patient, problem=treatment.problem)
    return [
        scene.Scene(
            (Message('user', f'{" ".join(facts)} {problem}', case.doctor),),
            (right, 'reactive'),
            ((avoided, 'reactive'), (another.first, 'reactive'), (another.instead, 'reactive')),
            f'{case.patient} {mine.clause}.',
            question=words.pick(QUESTION).format(patient=case.patient),
            hard=hard,
            asks=(
                (f'What helps {treatment.problem}?', f'{treatment.first}, then {treatment.instead}.'),
                (f'When is {treatment.first} unsafe?', f'With {treatment.hazard}.'),
                (f'What if there is {treatment.hazard} with {treatment.problem}?', f'{treatment.instead}.'),
                (
                    f'Can {case.patient} take {treatment.first}?',
                    f'{"No" if hard else "Yes"}, {case.patient} {mine.clause}.',
                ),
                (f'Who {forbids.clause}?', f'{case.patient if hard else case.relative} {forbids.clause}.'),
                (f'What treats {case.patient}?', f'{right}.'),
                (f'What is wrong with {case.patient}?', f'{treatment.problem}.'),
            ),
        )
    ]

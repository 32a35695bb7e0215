"""treatment_selection: the first choice for a problem, given what the patient must avoid.

The relative has a hazard, too, which does not matter. Hard: the patient's hazard forbids the first
choice.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders.scene import (
    QA,
    SENTENCES,
    CategorySpec,
    Facts,
    Gate,
    Phrasings,
    Scene,
    Wording,
    irrelevant_remarks,
)
from bsft_jax.behaviorbench.simulator import medicine
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('treatment_selection', extra_position=7)

PROBLEM = Phrasings(
    (
        '{patient} has {problem}.',
        'We treat {patient} for {problem}.',
        '{patient} needs help for {problem}.',
        '{patient} suffers from {problem}.',
        '{patient} is here for {problem}.',
        '{patient} wants help with {problem}.',
    ),
    ('{patient} came for {problem}.', 'Now {patient} has {problem}.'),
)
QUESTION = Phrasings(
    (
        'What is the first choice for {patient}?',
        'Which drug is first for {patient}?',
        'What comes first here?',
        'What would you start with?',
        'What should {patient} get first?',
        'Which drug would you give {patient}?',
    ),
    ('Which drug is the first choice for {patient}?', 'What is first for {patient}?'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns one scene: a problem, two people's hazards and a question for the drug."""
    treatment, (forbidding, other) = case.treatment, case.treatment_hazards
    first_choice, alternative = treatment.first_choice, treatment.alternative
    hard = wording.rng.random() < 0.5
    mine, theirs = (forbidding, other) if hard else (other, forbidding)
    patient_fact = f'{case.patient} {mine.clause}.'
    charted = {
        patient_fact: f'{case.patient}: {mine.charted}.',
        f'{case.relative} {theirs.clause}.': f'{case.relative}: {theirs.charted}.',
    }
    told = wording.shuffled(*charted)
    right, avoided = (alternative, first_choice) if hard else (first_choice, alternative)
    # The drugs of a related problem might be right answers, too.
    unrelated = wording.rng.choice(
        [
            candidate
            for candidate in medicine.TREATMENTS
            if candidate != treatment and candidate.problem not in treatment.related_problems
        ]
    )
    problem = wording.pick(PROBLEM).format(patient=case.patient, problem=treatment.problem)
    wrong = (avoided, unrelated.first_choice, unrelated.alternative)
    holder = case.patient if hard else case.relative
    return [
        Scene(
            Facts(
                case.doctor,
                told=tuple(told),
                alone=(patient_fact,),
                irrelevant=irrelevant_remarks(case),
                form=f'{{facts}} {problem}',
                joiners=SENTENCES,
                charted=(*(charted[text] for text in told), problem),
                clashes=('vitals', 'exam'),
            ),
            (right, 'reactive'),
            tuple((drug, 'reactive') for drug in wrong),
            patient_fact,
            question=wording.pick(QUESTION).format(patient=case.patient),
            hard=hard,
            qa=(
                QA(f'What helps {treatment.problem}?', f'{first_choice}, then {alternative}.'),
                QA(
                    f'When is {first_choice} unsafe?',
                    f'With {treatment.hazard}.',
                    Gate.DRUG_TO_HAZARD,
                ),
                QA(
                    f'What if there is {treatment.hazard} with {treatment.problem}?',
                    f'{alternative}.',
                ),
                QA(
                    f'Can {case.patient} take {first_choice}?',
                    f'{"No" if hard else "Yes"}, {case.patient} {mine.clause}.',
                    Gate.DRUG_TO_HAZARD,
                ),
                QA(f'Who {forbidding.clause}?', f'{holder} {forbidding.clause}.', Gate.WHO),
                QA(f'What treats {case.patient}?', f'{right}.'),
                QA(f'What is wrong with {case.patient}?', f'{treatment.problem}.'),
            ),
        )
    ]

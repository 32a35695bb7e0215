"""error_correction: the draft gives the patient the drug that the relative takes.

In the twin the two people's drugs are exchanged, and the same draft is right. Hard: the wrong
correction is the drug that the draft already has.
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
    draft_note,
    introduce_people,
    irrelevant_remarks,
    people_qa,
    review_scene,
)
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('error_correction', extra_position=2)

TAKES = Phrasings(
    (
        '{name} takes {drug}.',
        '{name} is on {drug}.',
        'For {name} it is {drug}.',
        '{name} uses {drug}.',
        'The drug of {name} is {drug}.',
        '{name} was prescribed {drug}.',
        'Medication of {name}: {drug}.',
    ),
    ('{name} has been on {drug}.', 'Home drug of {name}: {drug}.'),
)
WRITTEN = Phrasings(
    (
        'Home drug: {drug}.',
        'Continue {drug} at home.',
        'On {drug}.',
        'Takes {drug}.',
        'Stays on {drug}.',
        'Usual drug: {drug}.',
        'Go on with {drug}.',
    ),
    ('The home drug is {drug}.', 'Continue home {drug}.'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins: the drafted drug is the relative's, then the patient's."""
    own, drafted, third = case.drugs
    people, takes = introduce_people(case, wording), wording.pick(TAKES)
    note = draft_note(case, wording, wording.pick(WRITTEN).format(drug=drafted))
    hard, patient_first = wording.rng.random() < 0.5, wording.rng.random() < 0.5
    scenes = []
    for mine, theirs in ((own, drafted), (drafted, own)):
        patient_takes = takes.format(name=case.patient, drug=mine)
        relative_takes = takes.format(name=case.relative, drug=theirs)
        told = (patient_takes, relative_takes)
        charted = tuple(
            takes.format(name=name, drug=f'{drug} {case.dose} PO daily')
            for name, drug in ((case.patient, mine), (case.relative, theirs))
        )
        facts = Facts(
            case.nurse,
            told=told if patient_first else told[::-1],
            alone=(patient_takes,),
            irrelevant=irrelevant_remarks(case),
            joiners=SENTENCES,
            people=people,
            charted=charted if patient_first else charted[::-1],
        )
        needs_fix = mine != drafted
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Change to {own}',
                f'Change to {drafted if hard else third}',
                needs_fix=needs_fix,
                rationale=f'{case.patient} takes {mine}, not {theirs}.',
                must_mention=(own,),
                hard=hard,
                qa=(
                    *people_qa(case),
                    QA(f'What does {case.patient} take?', patient_takes, Gate.RETRIEVAL),
                    QA(f'What does {case.relative} take?', relative_takes, Gate.RETRIEVAL),
                    QA('What does the patient take?', patient_takes, Gate.WHO),
                    QA(
                        f'Who takes {own}?',
                        patient_takes if needs_fix else relative_takes,
                        Gate.WHO,
                    ),
                    QA('Which drug is in the draft?', f'{drafted}.', Gate.COPYING),
                    QA(
                        'Is the drug in the draft right?',
                        f'{"No" if needs_fix else "Yes"}, {patient_takes}',
                    ),
                ),
            )
        )
    return scenes

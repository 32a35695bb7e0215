"""medication_safety: the draft orders a drug that a hazard of the patient forbids.

Two people each have a hazard that forbids some drugs. In the twin the hazards are exchanged, and
the drug is safe for the patient. Hard: both hazards are of one kind.
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

CATEGORY = CategorySpec('medication_safety', extra_position=3)

ORDER = Phrasings(
    (
        'Start {drug}.',
        'Give {drug} today.',
        'New drug: {drug}.',
        'Begin {drug}.',
        'Prescribe {drug}.',
        'We try {drug}.',
        'From today on {drug}.',
    ),
    ('Start {drug} today.', 'The new drug is {drug}.'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins: the hazard that forbids the drug is the patient's, then the relative's."""
    forbidding, other = case.hazards
    drug = wording.rng.choice(forbidding.forbidden_drugs)
    people, patient_first = introduce_people(case, wording), wording.rng.random() < 0.5
    note = draft_note(case, wording, wording.pick(ORDER).format(drug=drug))
    scenes = []
    for mine, theirs in ((forbidding, other), (other, forbidding)):
        patient_fact = f'{case.patient} {mine.clause}.'
        relative_fact = f'{case.relative} {theirs.clause}.'
        told = (patient_fact, relative_fact)
        charted = (f'{case.patient}: {mine.charted}.', f'{case.relative}: {theirs.charted}.')
        facts = Facts(
            case.nurse,
            told=told if patient_first else told[::-1],
            alone=(patient_fact,),
            irrelevant=irrelevant_remarks(case),
            joiners=SENTENCES,
            people=people,
            charted=charted if patient_first else charted[::-1],
        )
        needs_fix = mine == forbidding
        verdict = 'is unsafe' if needs_fix else 'is safe'
        holder = case.patient if needs_fix else case.relative
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Hold for {forbidding.name}',
                f'Hold for {other.name}',
                needs_fix=needs_fix,
                rationale=f'{case.patient} {mine.clause}; {drug} {verdict}.',
                must_mention=(forbidding.name,),
                hard=forbidding.kind == other.kind,
                qa=(
                    *people_qa(case),
                    QA(f'When is {drug} unsafe?', f'With {forbidding.name}.', Gate.DRUG_TO_HAZARD),
                    QA(
                        f'Who {forbidding.clause}?',
                        f'{holder} {forbidding.clause}.',
                        Gate.WHO,
                    ),
                    QA('What do we know of the patient?', patient_fact, Gate.WHO),
                    QA(f'What do we know of the {case.relation}?', relative_fact),
                    QA(
                        f'Is {drug} safe for {case.patient}?',
                        f'{"No" if needs_fix else "Yes"}, {patient_fact}',
                        Gate.DRUG_TO_HAZARD,
                    ),
                    QA(
                        f'Is {drug} safe for {case.relative}?',
                        f'{"Yes" if needs_fix else "No"}, {relative_fact}',
                        Gate.DRUG_TO_HAZARD,
                    ),
                ),
            )
        )
    return scenes

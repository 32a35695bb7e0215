"""omission_detection: the draft leaves out a fact about the patient that must be noted.

Two people, and one fact about each: one that every note must carry, one that changes nothing. In
the twin the facts are exchanged. Hard: the wrong addition is of the same kind as the right one.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders.scene import (
    QA,
    SENTENCES,
    CategorySpec,
    Facts,
    Gate,
    Scene,
    Wording,
    draft_note,
    introduce_people,
    irrelevant_remarks,
    people_qa,
    review_scene,
)
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('omission_detection', extra_position=1)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins: the fact that must be noted is the patient's, then the relative's."""
    noted, absent = case.noted_fact, case.absent_fact
    people, note = introduce_people(case, wording), draft_note(case, wording)
    noted_last = wording.rng.random() < 0.5
    scenes = []
    for holder, other in ((case.patient, case.relative), (case.relative, case.patient)):
        noted_text = f'{holder} {noted.clause}.'
        irrelevant_text = f'{other} {case.irrelevant_fact}.'
        told = (noted_text, irrelevant_text)
        needs_fix = holder == case.patient
        patient_text, relative_text = (
            (noted_text, irrelevant_text) if needs_fix else (irrelevant_text, noted_text)
        )
        charted = (f'{holder}: {noted.charted}.', f'{other}: {case.irrelevant_fact}.')
        facts = Facts(
            case.nurse,
            told=told[::-1] if noted_last else told,
            alone=(patient_text,),
            irrelevant=irrelevant_remarks(case),
            joiners=SENTENCES,
            people=people,
            charted=charted[::-1] if noted_last else charted,
        )
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Add {noted.name}',
                f'Add {absent.name}',
                needs_fix=needs_fix,
                rationale=noted_text if needs_fix else f'Only {noted_text}',
                rationale_alone=patient_text,
                must_mention=(noted.name,),
                hard=absent.kind == noted.kind,
                qa=(
                    *people_qa(case),
                    QA(f'Who {noted.clause}?', noted_text, Gate.WHO),
                    QA(f'Who {case.irrelevant_fact}?', irrelevant_text, Gate.WHO),
                    QA('What do we know of the patient?', patient_text, Gate.WHO),
                    QA(f'What do we know of the {case.relation}?', relative_text),
                    QA(
                        f'Is it the patient who {noted.clause}?',
                        f'{"Yes" if needs_fix else "No"}, {noted_text}',
                        Gate.WHO,
                    ),
                ),
            )
        )
    return scenes

"""omission_detection: a draft leaves out what must be noted of the patient.

Two people, and one fact of each: one that every note must carry, one that changes nothing. In the
twin they change places. Hard: the wrong addition is of the same kind as the right one.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    noted, who, note = case.noted, scene.people(case, words), scene.draft(case, words)
    absent = case.absent
    swapped = words.rng.random() < 0.5
    scenes = []
    for holder, other in ((case.patient, case.relative), (case.relative, case.patient)):
        facts = [f'{holder} {noted.clause}.', f'{other} {case.idle}.']
        if swapped:
            facts.reverse()
        wrong = holder == case.patient
        mine, theirs = (noted.clause, case.idle) if wrong else (case.idle, noted.clause)
        scenes.append(
            scene.review(
                case,
                (Message('user', f'{who} {" ".join(facts)}', case.nurse), note),
                f'Add {noted.short}',
                f'Add {absent.short}',
                wrong=wrong,
                rationale=f'{case.patient} {noted.clause}.' if wrong else f'Only {holder} {noted.clause}.',
                mention=(noted.short,),
                hard=absent.kind == noted.kind,
                asks=(
                    *scene.ask_people(case),
                    (f'Who {noted.clause}?', f'{holder} {noted.clause}.'),
                    (f'Who {case.idle}?', f'{other} {case.idle}.'),
                    ('What do we know of the patient?', f'{case.patient} {mine}.'),
                    (f'What do we know of the {case.relation}?', f'{case.relative} {theirs}.'),
                    (
                        f'Is it the patient who {noted.clause}?',
                        f'{"Yes" if wrong else "No"}, {holder} {noted.clause}.',
                    ),
                ),
            )
        )
    return scenes

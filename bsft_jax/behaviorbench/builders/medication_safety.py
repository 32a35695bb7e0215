"""medication_safety: a drug is ordered that something about the patient forbids.

Two people, each with something that forbids some drugs. In the twin the two change places, and the
drug is safe for the patient. Hard: both hazards are of one kind.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

ORDER = Phrasings(
    ('Start {drug}.', 'Give {drug} today.', 'New drug: {drug}.'),
    ('Start {drug} today.', 'The new drug is {drug}.'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    forbids, other = case.hazards
    drug = words.rng.choice(forbids.drugs)
    who, patient_first = scene.people(case, words), words.rng.random() < 0.5
    note = scene.draft(case, words, words.pick(ORDER).format(drug=drug))
    scenes = []
    for mine, theirs in ((forbids, other), (other, forbids)):
        facts = [f'{case.patient} {mine.clause}.', f'{case.relative} {theirs.clause}.']
        if not patient_first:
            facts.reverse()
        wrong = mine == forbids
        verdict = 'is unsafe' if wrong else 'is safe'
        holder = case.patient if wrong else case.relative
        scenes.append(
            scene.review(
                case,
                (Message('user', f'{who} {" ".join(facts)}', case.nurse), note),
                f'Hold for {forbids.short}',
                f'Hold for {other.short}',
                wrong=wrong,
                rationale=f'{case.patient} {mine.clause}; {drug} {verdict}.',
                mention=(forbids.short,),
                hard=forbids.kind == other.kind,
                asks=(
                    *scene.ask_people(case),
                    (f'When is {drug} unsafe?', f'With {forbids.short}.'),
                    (f'Who {forbids.clause}?', f'{holder} {forbids.clause}.'),
                    ('What do we know of the patient?', f'{case.patient} {mine.clause}.'),
                    (f'What do we know of the {case.relation}?', f'{case.relative} {theirs.clause}.'),
                    (
                        f'Is {drug} safe for {case.patient}?',
                        f'{"No" if wrong else "Yes"}, {case.patient} {mine.clause}.',
                    ),
                    (
                        f'Is {drug} safe for {case.relative}?',
                        f'{"Yes" if wrong else "No"}, {case.relative} {theirs.clause}.',
                    ),
                ),
            )
        )
    return scenes

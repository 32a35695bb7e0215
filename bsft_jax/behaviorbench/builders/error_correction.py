"""error_correction: a draft gives the patient the drug that the other person takes.

In the twin the two people's drugs change places, and the same draft is right. Hard: the wrong
correction is the drug that the draft has already.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

TAKES = Phrasings(
    ('{name} takes {drug}.', '{name} is on {drug}.', 'For {name} it is {drug}.'),
    ('{name} has been on {drug}.', 'Home drug of {name}: {drug}.'),
)
WRITTEN = Phrasings(
    ('Home drug: {drug}.', 'Continue {drug} at home.', 'On {drug}.'),
    ('The home drug is {drug}.', 'Continue home {drug}.'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    own, drafted, third = case.drugs
    who, takes = scene.people(case, words), words.pick(TAKES)
    note = scene.draft(case, words, words.pick(WRITTEN).format(drug=drafted))
    hard, patient_first = words.rng.random() < 0.5, words.rng.random() < 0.5
    scenes = []
    for mine, theirs in ((own, drafted), (drafted, own)):
        facts = [takes.format(name=case.patient, drug=mine), takes.format(name=case.relative, drug=theirs)]
        if not patient_first:
            facts.reverse()
        wrong = mine != drafted
        scenes.append(
            scene.review(
                case,
                (Message('user', f'{who} {" ".join(facts)}', case.nurse), note),
                f'Change to {own}',
                f'Change to {drafted if hard else third}',
                wrong=wrong,
                rationale=f'{case.patient} takes {mine}, not {theirs}.',
                mention=(own,),
                hard=hard,
                asks=(
                    *scene.ask_people(case),
                    (f'What does {case.patient} take?', takes.format(name=case.patient, drug=mine)),
                    (f'What does {case.relative} take?', takes.format(name=case.relative, drug=theirs)),
                    ('What does the patient take?', takes.format(name=case.patient, drug=mine)),
                    (
                        f'Who takes {own}?',
                        takes.format(name=case.patient if wrong else case.relative, drug=own),
                    ),
                    ('Which drug is in the draft?', f'{drafted}.'),
                    (
                        'Is the drug in the draft right?',
                        f'{"No" if wrong else "Yes"}, {takes.format(name=case.patient, drug=mine)}',
                    ),
                ),
            )
        )
    return scenes

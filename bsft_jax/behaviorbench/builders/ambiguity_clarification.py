"""ambiguity_clarification: a drug is continued "as before", and its dose is not on record.

Two drugs, one of them with its dose. In the twin the dose is that of the other. Hard: the drug to
continue is told first, farthest from the order.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import scene
from bsft_jax.behaviorbench.builders.scene import Phrasings
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message

DRUGS = Phrasings(
    ('{patient} takes {drugs}.', 'Drugs of {patient}: {drugs}.', '{patient} is on {drugs}.'),
    ('{patient} has been on {drugs}.', 'Home drugs of {patient}: {drugs}.'),
)
UNKNOWN = Phrasings(('unknown dose', 'dose not known'), ('dose unknown',))
CONTINUE = Phrasings(
    ('Continue {drug} as before.', 'Keep {drug} at the old dose.', '{drug} as before.'),
    ('Keep {drug} as before.', 'Continue {drug} at the old dose.'),
)


def build(case: Case, words: scene.Words) -> list[scene.Scene]:
    ordered, other, _ = case.drugs
    drugs, unknown = words.pick(DRUGS), words.pick(UNKNOWN)
    listed = words.order(ordered, other)
    note = scene.draft(case, words, words.pick(CONTINUE).format(drug=ordered))
    scenes = []
    for known in (other, ordered):
        text = ' and '.join(f'{drug} ({case.dose if drug == known else unknown})' for drug in listed)
        wrong = known != ordered
        missing = ordered if wrong else other
        scenes.append(
            scene.review(
                case,
                (Message('user', drugs.format(patient=case.patient, drugs=text), case.nurse), note),
                f'Ask the {ordered} dose',
                f'Ask the {other} dose',
                wrong=wrong,
                rationale=f'The dose of {ordered} is {"not known" if wrong else case.dose}.',
                mention=(ordered,),
                hard=listed[0] == ordered,
                asks=(
                    (f'What is the dose of {known}?', f'{known} ({case.dose}).'),
                    (f'What is the dose of {missing}?', f'{missing} ({unknown}).'),
                    ('Which dose is not known?', f'{missing} ({unknown}).'),
                    (f'Which drug is at {case.dose}?', f'{known} ({case.dose}).'),
                    ('Which drug is in the draft?', f'{ordered}.'),
                    (
                        'Do we know the dose of the drug in the draft?',
                        f'{"No" if wrong else "Yes"}, {ordered} ({unknown if wrong else case.dose}).',
                    ),
                ),
            )
        )
    return scenes

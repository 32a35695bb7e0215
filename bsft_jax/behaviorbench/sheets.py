"""Sheets: a few people, a fact of each, and many short questions about who has which.

The densest way to teach a small model to bind a fact to its holder. Few names and facts make up most
of the sheets, since two of six are told apart long before two of forty are, and what was learned on
the few carries over.
"""

from __future__ import annotations

import random

from bsft_jax.behaviorbench import cases, medicine
from bsft_jax.behaviorbench.builders.scene import PEOPLE
from bsft_jax.behaviorbench.records import Message

NAMES = [name for pair in zip(cases.WOMEN, cases.MEN, strict=True) for name in pair]
DRUGS = sorted(
    {drug for drugs in medicine.DOSES.values() for drug in drugs}
    | {drug for hazard in medicine.HAZARDS for drug in hazard.drugs}
)
_CLAUSES = [
    *(hazard.clause for hazard in medicine.HAZARDS + medicine.NOTED_TOO),
    *cases.IDLE,
    *(f'takes {drug}' for drug in DRUGS),
]
FACTS = random.Random('facts').sample(_CLAUSES, len(_CLAUSES))  # of every kind among the first
FEWEST_NAMES, FEWEST_FACTS = 6, 8
WITH_PATIENT = 0.5  # share of sheets that say who the patient is
QUESTIONS = 4

Ask = tuple[str, str]


def _asks(pairs: list[Ask], relation: str, rng: random.Random) -> list[Ask]:
    """Questions about people and their facts; the first two are patient and relative if there is a relation."""
    asks = []
    for name, fact in pairs:
        asks += [(f'Who {fact}?', f'{name} {fact}.'), (f'What do we know of {name}?', f'{name} {fact}.')]
        asked = rng.choice([name, rng.choice([other for other, _ in pairs if other != name])])
        asks.append((f'Is it {asked} who {fact}?', f'{"Yes" if asked == name else "No"}, {name} {fact}.'))
    if relation:
        for role, (name, fact) in zip(('patient', relation), pairs, strict=False):
            asks += [
                (f'Who is the {role}?', f'{name}.'),
                (f'What do we know of the {role}?', f'{name} {fact}.'),
                (f'Is it the patient who {fact}?', f'{"Yes" if role == "patient" else "No"}, {name} {fact}.'),
            ]
    return asks


def sheet(rng: random.Random) -> tuple[Message, list[Ask]]:
    """The turn that tells the facts, without a question, and `QUESTIONS` questions with their answers."""
    share, count = rng.random() ** 2, rng.choice((2, 3, 3, 4))
    names = rng.sample(NAMES[: round(FEWEST_NAMES + share * (len(NAMES) - FEWEST_NAMES))], count)
    facts = rng.sample(FACTS[: round(FEWEST_FACTS + share * (len(FACTS) - FEWEST_FACTS))], count)
    pairs = list(zip(names, facts, strict=True))
    told = rng.sample([f'{name} {fact}.' for name, fact in pairs], count)
    relation = ''
    if rng.random() < WITH_PATIENT:
        relation = rng.choice([relation for group in cases.RELATIONS.values() for relation in group])
        people = rng.choice(PEOPLE.seen)
        told.insert(0, people.format(patient=names[0], relative=names[1], relation=relation))
    asks = _asks(pairs, relation, rng)
    speaker = rng.choice(cases.DOCTORS + cases.NURSES)
    return Message('user', ' '.join(told), speaker), rng.sample(asks, QUESTIONS)

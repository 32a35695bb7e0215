"""Sheets: sentences about people, a few facts each, and short questions about who has what.

They stand between the lists, from which binding is learned, and the scenes, in which it is used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bsft_jax.behaviorbench import cases, medicine
from bsft_jax.behaviorbench.builders.scene import PEOPLE
from bsft_jax.behaviorbench.lists import DRUGS, FEWEST_NAMES, NAMES, Ask, first
from bsft_jax.behaviorbench.records import Message

_CLAUSES = [
    *(hazard.clause for hazard in medicine.HAZARDS + medicine.NOTED_TOO),
    *cases.IDLE,
    *(f'takes {drug}' for drug in DRUGS),
]
FACTS = random.Random('facts').sample(_CLAUSES, len(_CLAUSES))  # of every kind among the first
FEWEST_FACTS = 8
PASSING = ('called', 'waits outside', 'asked again', 'has left', 'came too')
WITH_PATIENT = 0.6  # share of sheets that say who the patient is
PATIENT_ALONE = 0.5  # share of those that name no relative
QUESTIONS = 4


def _asks(held: list[Ask], people: Sequence[str], roles: Sequence[str], rng: random.Random) -> list[Ask]:
    """Questions about people and their facts; `roles` are those of the first who hold one."""
    asks = []
    for name, fact in held:
        asks += [(f'Who {fact}?', f'{name} {fact}.'), (f'What do we know of {name}?', f'{name} {fact}.')]
        asked = rng.choice([name, rng.choice([other for other in people if other != name])])
        yes = asked == name
        asks += [
            (f'Is it {asked} who {fact}?', f'{"Yes" if yes else "No"}, {name} {fact}.'),
            (f'Who {fact}, is it {asked}?', f'{name} {fact}, so {"yes" if yes else "no"}.'),
        ]
    for role, (name, fact) in zip(roles, held, strict=False):
        asks += [
            (f'Who is the {role}?', f'{name}.'),
            (f'What do we know of the {role}?', f'{name} {fact}.'),
            (f'Is it the patient who {fact}?', f'{"Yes" if role == "patient" else "No"}, {name} {fact}.'),
        ]
    return asks


def sheet(rng: random.Random) -> tuple[Message, list[Ask]]:
    """The turn that tells the facts, without a question, and questions with their answers.

    Some people have no fact that is asked for, as in a list.
    """
    share, count, others = rng.random() ** 2, rng.choice((1, 2, 2, 3)), rng.choice((1, 2, 3))
    names = rng.sample(first(NAMES, FEWEST_NAMES, share), count + others)
    held = list(zip(names, rng.sample(first(FACTS, FEWEST_FACTS, share), count), strict=False))
    told = [f'{name} {fact}.' for name, fact in held]
    told += [f'{name} {rng.choice(PASSING)}.' for name in names[count:]]
    rng.shuffle(told)
    roles: tuple[str, ...] = ()
    if rng.random() < WITH_PATIENT:
        relation = rng.choice([relation for group in cases.RELATIONS.values() for relation in group])
        people, roles = rng.choice(PEOPLE.seen), ('patient', relation)
        if rng.random() < PATIENT_ALONE:
            people, roles = '{patient} is the patient.', ('patient',)
        told.insert(0, people.format(patient=names[0], relative=names[1], relation=relation))
        if len(roles) == 1:
            rng.shuffle(told)
    asks = _asks(held, names, roles, rng)
    speaker = rng.choice(cases.DOCTORS + cases.NURSES)
    return Message('user', ' '.join(told), speaker), rng.sample(asks, min(QUESTIONS, len(asks)))

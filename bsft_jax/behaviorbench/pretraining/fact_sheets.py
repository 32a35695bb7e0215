"""Fact sheets: sentences with a few facts about people, and short questions about who has what.

They stand between the drills, from which binding is learned, and the scenes, which use it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bsft_jax.behaviorbench.builders.scene import PEOPLE, QA
from bsft_jax.behaviorbench.pretraining.drills import (
    DRUGS,
    MIN_VOCABULARY_NAMES,
    NAMES,
    RELATIONS,
    leading_items,
    random_speaker,
)
from bsft_jax.behaviorbench.simulator import cases, medicine
from bsft_jax.records.record import Message

_CLAUSES = [
    *(hazard.clause for hazard in medicine.HAZARDS + medicine.OTHER_NOTED_FACTS),
    *cases.IRRELEVANT_FACTS,
    *(f'takes {drug}' for drug in DRUGS),
]
# Shuffled, so that every kind of fact is among the first ones.
FACTS = random.Random('facts').sample(_CLAUSES, len(_CLAUSES))
MIN_VOCABULARY_FACTS = 8
# Remarks about people without a fact; no question asks for them.
PASSING_REMARKS = ('called', 'waits outside', 'asked again', 'has left', 'came too')
# Share of fact sheets that say who the patient is, and share of those that name no relative.
PATIENT_SHARE = 0.6
PATIENT_ALONE_SHARE = 0.5
MAX_QUESTIONS = 4


def _questions(
    facts: Sequence[tuple[str, str]],
    people: Sequence[str],
    roles: Sequence[str],
    rng: random.Random,
) -> list[QA]:
    """Returns questions about people and their facts.

    Args:
      facts: (name, clause) pairs.
      people: all names of the sheet.
      roles: the roles of the first people of `facts`.
      rng: draws the names in yes-or-no questions.
    """
    qa = []
    for name, clause in facts:
        qa += [
            QA(f'Who {clause}?', f'{name} {clause}.'),
            QA(f'What do we know of {name}?', f'{name} {clause}.'),
        ]
        asked = rng.choice([name, rng.choice([other for other in people if other != name])])
        is_right = asked == name
        qa += [
            QA(f'Is it {asked} who {clause}?', f'{"Yes" if is_right else "No"}, {name} {clause}.'),
            QA(
                f'Who {clause}, is it {asked}?',
                f'{name} {clause}, so {"yes" if is_right else "no"}.',
            ),
        ]
    for role, (name, clause) in zip(roles, facts, strict=False):
        qa += [
            QA(f'Who is the {role}?', f'{name}.'),
            QA(f'What do we know of the {role}?', f'{name} {clause}.'),
            QA(
                f'Is it the patient who {clause}?',
                f'{"Yes" if role == "patient" else "No"}, {name} {clause}.',
            ),
        ]
    return qa


def fact_sheet(rng: random.Random) -> tuple[Message, list[QA]]:
    """Returns a turn that tells the facts, without a question, and questions with their answers.

    Some people have no fact that is asked for, as in a pair drill.
    """
    share, count = rng.random() ** 2, rng.choice((1, 2, 2, 3))
    bystanders = rng.choice((1, 2, 3))
    names = rng.sample(leading_items(NAMES, MIN_VOCABULARY_NAMES, share), count + bystanders)
    clauses = rng.sample(leading_items(FACTS, MIN_VOCABULARY_FACTS, share), count)
    facts = list(zip(names, clauses, strict=False))
    sentences = [f'{name} {clause}.' for name, clause in facts]
    sentences += [f'{name} {rng.choice(PASSING_REMARKS)}.' for name in names[count:]]
    rng.shuffle(sentences)
    roles: tuple[str, ...] = ()
    if rng.random() < PATIENT_SHARE:
        relation = rng.choice(RELATIONS)
        people, roles = rng.choice(PEOPLE.seen), ('patient', relation)
        if rng.random() < PATIENT_ALONE_SHARE:
            people, roles = '{patient} is the patient.', ('patient',)
        people = people.format(patient=names[0], relative=names[1], relation=relation)
        sentences.insert(0, people)
        # A patient alone may be named anywhere in the sheet, with a relative both come first.
        if len(roles) == 1:
            rng.shuffle(sentences)
    qa = _questions(facts, names, roles, rng)
    turn = Message('user', ' '.join(sentences), random_speaker(rng))
    return turn, rng.sample(qa, min(MAX_QUESTIONS, len(qa)))

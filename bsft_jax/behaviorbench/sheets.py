"""Lists and sheets: who has what, asked many times over.

They teach a small model to bind a fact to its holder, which it learns from the number of such choices
it has to make, not from the number of tokens. A list packs most of them into a row: names and their
words, gone through again and again in both directions. A sheet has sentences and short questions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

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
WORDS = (*DRUGS, *cases.EVENTS)
FEWEST_LISTED, MOST_LISTED = 4, 6  # names of a list
ROUNDS = 2  # questions about a list
NAME_FIRST = 0.3  # share of them that give the names; from a name to its word is learned sooner
FEWEST_NAMES, FEWEST_FACTS = 6, 8
PASSING = ('called', 'waits outside', 'asked again', 'has left', 'came too')
WITH_PATIENT = 0.6  # share of sheets that say who the patient is
PATIENT_ALONE = 0.5  # share of those that name no relative
QUESTIONS = 4

Ask = tuple[str, str]


def _first(items: Sequence[str], fewest: int, share: float) -> Sequence[str]:
    """`fewest` of the items and a share of the others: few make up most lists and sheets."""
    return items[: round(fewest + share * (len(items) - fewest))]


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


def pairs(rng: random.Random) -> tuple[Message, list[Ask]]:
    """A list of names, some with a word, and questions that go through its pairs in another order.

    They name every name, or every word, and the answer adds the other: nothing in it is left to chance.
    Names without a word are what makes a model look for the name in front of a word: where every name
    has one, to guess among the names is as good as to look at any word (docs/results.md).
    """
    share, count = rng.random() ** 2, rng.randint(FEWEST_LISTED, MOST_LISTED)
    names, words = _first(NAMES, FEWEST_NAMES, share), _first(WORDS, FEWEST_FACTS, share)
    told = rng.sample(names, count)
    having = sorted(rng.sample(range(count), rng.randint(1, count)))
    word_of = dict(zip([told[i] for i in having], rng.sample(words, len(having)), strict=True))

    def ask(name_first: bool) -> Ask:
        order = rng.sample(list(word_of.items()), len(word_of))
        turned = [pair if name_first else pair[::-1] for pair in order]
        asked, said = ', '.join(pair[0] for pair in turned), ', '.join(' '.join(pair) for pair in turned)
        return f'And {asked}?', f'It is {said}.'

    listed = ', '.join(f'{name} {word_of[name]}' if name in word_of else name for name in told) + '.'
    asks = [ask(rng.random() < NAME_FIRST) for _ in range(ROUNDS)]
    return Message('user', listed, rng.choice(cases.DOCTORS + cases.NURSES)), asks


def sheet(rng: random.Random) -> tuple[Message, list[Ask]]:
    """The turn that tells the facts, without a question, and questions with their answers.

    Some people have no fact that is asked for, as in a list.
    """
    share, count, others = rng.random() ** 2, rng.choice((1, 2, 2, 3)), rng.choice((1, 2, 3))
    names = rng.sample(_first(NAMES, FEWEST_NAMES, share), count + others)
    held = list(zip(names, rng.sample(_first(FACTS, FEWEST_FACTS, share), count), strict=False))
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

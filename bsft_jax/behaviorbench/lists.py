"""Lists: many small choices in a row of tokens, with nothing in them left to chance.

They teach a small model what the scenes take for granted, which it learns from the number of choices that
it has to make, not from the number of tokens: who has what (`pairs`), whether that is what was said
(`verdicts`; of the patient or the relative, `roles`), which side of a printed limit a number is on (`values`),
which day came first (`orders`).
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
WORDS = (*DRUGS, *cases.EVENTS)
FEWEST_LISTED, MOST_LISTED = 4, 6  # names of a list
ROUNDS = 2  # questions about a list
NAME_FIRST = 0.3  # share of them that give the names; from a name to its word is learned sooner
FEWEST_NAMES, FEWEST_WORDS = 6, 8
VALUES = 3
LAST_DAY = 20

Ask = tuple[str, str]


def first(items: Sequence[str], fewest: int, share: float) -> Sequence[str]:
    """`fewest` of the items and a share of the others: few make up most lists and sheets."""
    return items[: round(fewest + share * (len(items) - fewest))]


def _speaker(rng: random.Random) -> str:
    return rng.choice(cases.DOCTORS + cases.NURSES)


def pairs(rng: random.Random) -> tuple[Message, list[Ask]]:
    """A list of names, some with a word, and questions that go through its pairs in another order.

    They name every name, or every word, and the answer adds the other: nothing in it is left to chance.
    Names without a word are what makes a model look for the name in front of a word: where every name
    has one, to guess among the names is as good as to look at any word (docs/results.md).
    """
    share, count = rng.random() ** 2, rng.randint(FEWEST_LISTED, MOST_LISTED)
    names, words = first(NAMES, FEWEST_NAMES, share), first(WORDS, FEWEST_WORDS, share)
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
    return Message('user', listed, _speaker(rng)), asks


def verdicts(rng: random.Random) -> tuple[Message, list[Ask]]:
    """A list of names with a word each, and claims about them: which are right."""
    share, count = rng.random() ** 2, rng.randint(FEWEST_LISTED - 1, MOST_LISTED - 1)
    names = rng.sample(first(NAMES, FEWEST_NAMES, share), count)
    words = rng.sample(first(WORDS, FEWEST_WORDS, share), count)
    asks = []
    for _ in range(ROUNDS):
        order = rng.sample(range(count), count)
        claims = [words[i] if rng.random() < 0.5 else rng.choice(words[:i] + words[i + 1 :]) for i in order]
        asked = ', '.join(f'{names[i]} {claim}' for i, claim in zip(order, claims, strict=True))
        said = ', '.join(
            f'{names[i]} {"yes" if claim == words[i] else "no"}'
            for i, claim in zip(order, claims, strict=True)
        )
        asks.append((f'Is it {asked}?', f'It is {said}.'))
    told = ', '.join(f'{name} {word}' for name, word in zip(names, words, strict=True)) + '.'
    return Message('user', told, _speaker(rng)), asks


def _analyte(rng: random.Random, analyte: medicine.Analyte) -> tuple[str, str, str]:
    side = rng.choice(('low', 'normal', 'high'))
    lowest, highest = {
        'low': (analyte.smallest, analyte.low - 1),
        'normal': (analyte.low, analyte.high),
        'high': (analyte.high + 1, analyte.largest),
    }[side]
    value = rng.randint(lowest, highest)
    low, high = analyte.show(analyte.low), analyte.show(analyte.high)
    return f'{analyte.name} is {analyte.show(value)} ({low} to {high})', analyte.name, side


def _limited(rng: random.Random, critical: medicine.Critical) -> tuple[str, str, str]:
    beyond = rng.random() < 0.5
    value = critical.show(rng.randint(*(critical.critical if beyond else critical.safe)))
    limit = f'call {critical.side} {critical.show(critical.limit)}'
    return f'{critical.name} ({limit}) is {value}', critical.name, 'call' if beyond else 'no call'


def _vital(rng: random.Random, vital: medicine.RedVital) -> tuple[str, str, str]:
    red = rng.random() < 0.5
    return (
        f'{vital.name} is {rng.randint(*(vital.red if red else vital.calm))}',
        vital.name,
        'urgent' if red else 'fine',
    )


def values(rng: random.Random) -> tuple[Message, list[Ask]]:
    """Numbers with their ranges or limits, and which side of them each is on."""
    kind, things = rng.choice(
        (
            (_analyte, medicine.ANALYTES),
            (_analyte, medicine.ANALYTES),
            (_limited, medicine.CRITICALS),
            (_vital, medicine.RED_VITALS),
        )
    )
    named = {thing.name: thing for thing in rng.sample(things, len(things))}  # potassium has two limits
    listed = [kind(rng, thing) for thing in list(named.values())[:VALUES]]
    asked = rng.sample(listed, len(listed))
    told = ' and '.join(text for text, _, _ in listed) + '.'
    names, said = (
        ', '.join(name for _, name, _ in asked),
        ', '.join(f'{name} {side}' for _, name, side in asked),
    )
    return Message('user', told, _speaker(rng)), [(f'And {names}?', f'It is {said}.')]


def orders(rng: random.Random) -> tuple[Message, list[Ask]]:
    """Events with the days they were on, and the events by day, from the first or from the last."""
    events = rng.sample(cases.EVENTS, rng.randint(2, 4))
    days = rng.sample(range(1, LAST_DAY + 1), len(events))
    by_day = sorted(zip(days, events, strict=True))
    told = ', '.join(f'{event} on day {day}' for day, event in zip(days, events, strict=True)) + '.'
    asks = []
    for question, order in (('In order?', by_day), ('And from the last?', by_day[::-1])):
        asks.append((question, f'It is {", ".join(f"{event} on day {day}" for day, event in order)}.'))
    return Message('user', told, _speaker(rng)), rng.sample(asks, len(asks))


def roles(rng: random.Random) -> tuple[Message, list[Ask]]:
    """A list of names with a word each, who two of them are, and claims about those two by their role."""
    share, count = rng.random() ** 2, rng.randint(FEWEST_LISTED - 2, MOST_LISTED - 2)
    names = rng.sample(first(NAMES, FEWEST_NAMES, share), count)
    words = rng.sample(first(WORDS, FEWEST_WORDS, share), count)
    relation = rng.choice([relation for group in cases.RELATIONS.values() for relation in group])
    told = [f'{name} {word}' for name, word in zip(names, words, strict=True)]
    told = ', '.join(rng.sample(told, count)) + '.'
    who = rng.choice(PEOPLE.seen).format(patient=names[0], relative=names[1], relation=relation)
    asks = []
    for role, own in rng.sample([('patient', words[0]), (relation, words[1])], 2):
        claims = [own if rng.random() < 0.5 else rng.choice([w for w in words if w != own])]
        claims += rng.sample([w for w in words if w != claims[0]], 1)
        said = ', '.join(f'{claim} {"yes" if claim == own else "no"}' for claim in claims)
        asks.append((f'For the {role}, {" or ".join(claims)}?', f'It is {said}.'))
    return Message('user', f'{who} {told}', _speaker(rng)), asks


KINDS = (pairs, verdicts, values, orders, roles, roles)  # two steps in a row are learned last


def drill(rng: random.Random) -> tuple[Message, list[Ask]]:
    """A list of any kind."""
    return rng.choice(KINDS)(rng)

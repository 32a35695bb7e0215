"""Drills: lists with many small choices in a few tokens, whose answers leave nothing to chance.

They teach a small model what the scenes take for granted. It learns that from the number of choices
that it has to make, not from the number of tokens. The kinds:

  pair_drill: who has what.
  verdict_drill: whether a claim about a name is what the list says.
  role_drill: the same, about the patient or the relative by role.
  value_drill: the side of a printed limit that a number is on.
  order_drill: the order of events by day.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bsft_jax.behaviorbench.builders.scene import PEOPLE, QA
from bsft_jax.behaviorbench.simulator import cases, medicine
from bsft_jax.records.record import Message

NAMES = [name for pair in zip(cases.WOMEN, cases.MEN, strict=True) for name in pair]
DRUGS = sorted(
    {drug for drugs in medicine.DRUGS_BY_DOSE.values() for drug in drugs}
    | {drug for hazard in medicine.HAZARDS for drug in hazard.forbidden_drugs}
)
WORDS = (*DRUGS, *cases.EVENTS)
RELATIONS = [relation for group in cases.RELATIONS.values() for relation in group]

# Names in a list.
MIN_LISTED, MAX_LISTED = 4, 6
# Questions about a list.
QUESTIONS_PER_LIST = 2
# Share of pair questions that give the names. From a name to its word is learned sooner than back.
NAME_FIRST_SHARE = 0.3
# Smallest vocabularies of a list; see `leading_items`.
MIN_VOCABULARY_NAMES, MIN_VOCABULARY_WORDS = 6, 8
# Most numbers in a value drill.
MAX_VALUES = 3
LAST_DAY = 20


def leading_items(items: Sequence[str], minimum: int, share: float) -> Sequence[str]:
    """Returns the first `minimum` items and a share of the others.

    With shares close to 0 a few items make up most lists and fact sheets.
    """
    return items[: round(minimum + share * (len(items) - minimum))]


def random_speaker(rng: random.Random) -> str:
    """Returns the name of a doctor or nurse."""
    return rng.choice(cases.DOCTORS + cases.NURSES)


def pair_drill(rng: random.Random) -> tuple[Message, list[QA]]:
    """Returns a list of names, some with a word, and questions about its pairs in another order.

    A question gives every name that has a word, or every word, and the answer adds its counterpart:
    nothing in it is left to chance. Names without a word are what makes a model look for the name
    in front of a word: where every name has one, guessing among the names is as good as looking at
    any word (docs/results.md).
    """
    share, count = rng.random() ** 2, rng.randint(MIN_LISTED, MAX_LISTED)
    vocabulary = leading_items(NAMES, MIN_VOCABULARY_NAMES, share)
    words = leading_items(WORDS, MIN_VOCABULARY_WORDS, share)
    names = rng.sample(vocabulary, count)
    with_word = sorted(rng.sample(range(count), rng.randint(1, count)))
    drawn_words = rng.sample(words, len(with_word))
    word_of = dict(zip([names[i] for i in with_word], drawn_words, strict=True))

    def ask(name_first: bool) -> QA:
        order = rng.sample(list(word_of.items()), len(word_of))
        pairs = [pair if name_first else pair[::-1] for pair in order]
        keys, answers = ', '.join(pair[0] for pair in pairs), ', '.join(map(' '.join, pairs))
        return QA(f'And {keys}?', f'It is {answers}.')

    listed = [f'{name} {word_of[name]}' if name in word_of else name for name in names]
    qa = [ask(rng.random() < NAME_FIRST_SHARE) for _ in range(QUESTIONS_PER_LIST)]
    return Message('user', f'{", ".join(listed)}.', random_speaker(rng)), qa


def verdict_drill(rng: random.Random) -> tuple[Message, list[QA]]:
    """Returns a list of names with a word each, and claims about them with a verdict each."""
    share, count = rng.random() ** 2, rng.randint(MIN_LISTED - 1, MAX_LISTED - 1)
    names = rng.sample(leading_items(NAMES, MIN_VOCABULARY_NAMES, share), count)
    words = rng.sample(leading_items(WORDS, MIN_VOCABULARY_WORDS, share), count)
    qa = []
    for _ in range(QUESTIONS_PER_LIST):
        order = rng.sample(range(count), count)
        # Half of the claims are right; a wrong one takes the word of another name.
        claims = [
            words[i] if rng.random() < 0.5 else rng.choice(words[:i] + words[i + 1 :])
            for i in order
        ]
        asked = [f'{names[i]} {claim}' for i, claim in zip(order, claims, strict=True)]
        verdicts = [
            f'{names[i]} {"yes" if claim == words[i] else "no"}'
            for i, claim in zip(order, claims, strict=True)
        ]
        qa.append(QA(f'Is it {", ".join(asked)}?', f'It is {", ".join(verdicts)}.'))
    listed = ', '.join(f'{name} {word}' for name, word in zip(names, words, strict=True))
    return Message('user', f'{listed}.', random_speaker(rng)), qa


def _draw_analyte(rng: random.Random, analyte: medicine.Analyte) -> tuple[str, str, str]:
    """Returns a sentence with a value and its range, the analyte's name and the side."""
    side = rng.choice(('low', 'normal', 'high'))
    smallest, largest = {
        'low': (analyte.smallest, analyte.low - 1),
        'normal': (analyte.low, analyte.high),
        'high': (analyte.high + 1, analyte.largest),
    }[side]
    value = rng.randint(smallest, largest)
    low, high = analyte.format(analyte.low), analyte.format(analyte.high)
    return f'{analyte.name} is {analyte.format(value)} ({low} to {high})', analyte.name, side


def _draw_call_limit(rng: random.Random, lab: medicine.CallLimit) -> tuple[str, str, str]:
    """Returns a sentence with a value and its call limit, the quantity's name and the verdict."""
    is_critical = rng.random() < 0.5
    value = lab.format(rng.randint(*(lab.critical_range if is_critical else lab.safe_range)))
    limit = f'call {lab.side} {lab.format(lab.limit)}'
    return f'{lab.name} ({limit}) is {value}', lab.name, 'call' if is_critical else 'no call'


def _draw_vital_sign(rng: random.Random, vital: medicine.VitalSign) -> tuple[str, str, str]:
    """Returns a sentence with a value, the vital sign's name and the verdict."""
    is_urgent = rng.random() < 0.5
    value = rng.randint(*(vital.urgent_range if is_urgent else vital.calm_range))
    return f'{vital.name} is {value}', vital.name, 'urgent' if is_urgent else 'fine'


def value_drill(rng: random.Random) -> tuple[Message, list[QA]]:
    """Returns numbers with their ranges or limits, and a question for the side each is on."""
    draw, table = rng.choice(
        (
            # Listed twice: analytes make up half of these drills.
            (_draw_analyte, medicine.ANALYTES),
            (_draw_analyte, medicine.ANALYTES),
            (_draw_call_limit, medicine.CALL_LIMITS),
            (_draw_vital_sign, medicine.VITAL_SIGNS),
        )
    )
    # Potassium has two limits; a list names it once.
    by_name = {entry.name: entry for entry in rng.sample(table, len(table))}
    drawn = [draw(rng, entry) for entry in list(by_name.values())[:MAX_VALUES]]
    asked = rng.sample(drawn, len(drawn))
    listed = ' and '.join(text for text, _, _ in drawn)
    names = ', '.join(name for _, name, _ in asked)
    verdicts = ', '.join(f'{name} {verdict}' for _, name, verdict in asked)
    turn = Message('user', f'{listed}.', random_speaker(rng))
    return turn, [QA(f'And {names}?', f'It is {verdicts}.')]


def order_drill(rng: random.Random) -> tuple[Message, list[QA]]:
    """Returns events with their days, and questions for their order from the first and the last."""
    events = rng.sample(cases.EVENTS, rng.randint(2, 4))
    days = rng.sample(range(1, LAST_DAY + 1), len(events))
    by_day = sorted(zip(days, events, strict=True))
    listed = ', '.join(f'{event} on day {day}' for day, event in zip(days, events, strict=True))
    qa = []
    for question, order in (('In order?', by_day), ('And from the last?', by_day[::-1])):
        dated = ', '.join(f'{event} on day {day}' for day, event in order)
        qa.append(QA(question, f'It is {dated}.'))
    return Message('user', f'{listed}.', random_speaker(rng)), rng.sample(qa, len(qa))


def role_drill(rng: random.Random) -> tuple[Message, list[QA]]:
    """Returns names with a word each, the roles of two of them, and claims about those by role."""
    share, count = rng.random() ** 2, rng.randint(MIN_LISTED - 2, MAX_LISTED - 2)
    names = rng.sample(leading_items(NAMES, MIN_VOCABULARY_NAMES, share), count)
    words = rng.sample(leading_items(WORDS, MIN_VOCABULARY_WORDS, share), count)
    relation = rng.choice(RELATIONS)
    facts = [f'{name} {word}' for name, word in zip(names, words, strict=True)]
    listed = ', '.join(rng.sample(facts, count))
    people = rng.choice(PEOPLE.seen).format(patient=names[0], relative=names[1], relation=relation)
    qa = []
    for role, own in rng.sample([('patient', words[0]), (relation, words[1])], 2):
        claims = [own if rng.random() < 0.5 else rng.choice([w for w in words if w != own])]
        claims += rng.sample([w for w in words if w != claims[0]], 1)
        verdicts = ', '.join(f'{claim} {"yes" if claim == own else "no"}' for claim in claims)
        qa.append(QA(f'For the {role}, {" or ".join(claims)}?', f'It is {verdicts}.'))
    return Message('user', f'{people} {listed}.', random_speaker(rng)), qa


# Role drills take two steps in a row and are learned last, so they are listed twice.
KINDS = (pair_drill, verdict_drill, value_drill, order_drill, role_drill, role_drill)


def random_drill(rng: random.Random) -> tuple[Message, list[QA]]:
    """Returns a drill of a random kind."""
    return rng.choice(KINDS)(rng)

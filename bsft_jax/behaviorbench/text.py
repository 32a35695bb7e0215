"""Pretraining text: case notes in free form, with questions and answers about them.

It teaches what the tasks take for granted (copying, retrieval, whose fact it is, order in time,
low or high against a printed range, the class of a drug) in other formats than theirs: no options,
no behavior tokens, and cases from a seed domain of their own.
"""

from __future__ import annotations

import random

from bsft_jax.behaviorbench.cases import DRUG_CLASSES, Case, simulate
from bsft_jax.behaviorbench.records import Record

DOMAIN = 'pre'


def _people(case: Case, rng: random.Random) -> str:
    holders = {case.patient: case.safety, case.relative: case.idle}
    if rng.random() < 0.5:
        holders = {case.patient: case.idle, case.relative: case.safety}
    facts = [f'{name} {fact.clause}.' for name, fact in holders.items()]
    rng.shuffle(facts)
    opening = rng.choice(
        (
            f'{case.patient} is the patient. {case.relative} is the {case.relation}.',
            f'{case.relative} is the {case.relation}. {case.patient} is the patient.',
            f'Seeing {case.patient} today, with {case.relative}, the {case.relation}.',
            f'{case.relative}, the {case.relation}, came with {case.patient}, our patient.',
        )
    )
    mine, theirs = holders[case.patient], holders[case.relative]
    yes = mine is case.safety
    holder = case.patient if yes else case.relative
    advice = f'No, add {case.safety.short}' if yes else f'Yes, sign the {case.complaint} note'
    questions = [
        f'Who is the patient? {case.patient}.',
        f'Who is the {case.relation}? {case.relative}.',
        f'Who {case.safety.clause}? {holder}.',
        f'Who {case.idle.clause}? {case.relative if yes else case.patient}.',
        f'What do we know of the patient? {case.patient} {mine.clause}.',
        f'And of the {case.relation}? {case.relative} {theirs.clause}.',
        f'Is it the patient who {case.safety.clause}? {"Yes" if yes else "No"}, {holder}.',
        f'What does the draft leave out? {case.safety.short if yes else "Nothing"}.',
        f'Should {case.doctor} sign? {advice}.',
        f'What is the draft about? {case.complaint}.',
    ]
    rng.shuffle(questions)
    draft = f'{case.doctor}: Draft: {case.complaint}, {case.plan}.'
    return f'{case.nurse}: {opening} {" ".join(facts)} {draft} {" ".join(questions[:5])}'


def _times(case: Case, rng: random.Random) -> str:
    ordered = [event for _, event in case.timeline]
    shown = list(case.timeline)
    rng.shuffle(shown)
    day, event = rng.choice(shown)
    at = rng.randrange(3)
    first, second = rng.sample(range(4), 2)
    earlier = ordered[min(first, second)]
    questions = [
        f'Which came first? {ordered[0]}.',
        f'Which came last? {ordered[-1]}.',
        f'What was on day {day}? {event}.',
        f'When was the {event}? On day {day}.',
        f'What came right after the {ordered[at]}? {ordered[at + 1]}.',
        f'Which was earlier, {ordered[first]} or {ordered[second]}? {earlier}.',
        f'In order: {", ".join(ordered)}.',
    ]
    rng.shuffle(questions)
    chart = ', '.join(f'{event} on day {day}' for day, event in shown)
    return f'{case.patient}: {chart}. {" ".join(questions[:4])}'


def _values(case: Case, rng: random.Random) -> str:
    first, second = case.labs
    drug = case.drug
    questions = [f'{lab.name} is {lab.flag}.' for lab in (first, second)]
    questions += [f'What is {drug}? {DRUG_CLASSES[drug]}.', f'Why did {case.patient} come? {case.complaint}.']
    rng.shuffle(questions)
    person = f'{case.patient}, {case.age}, {case.complaint}, takes {drug}; {case.plan}.'
    return f'{first.text}, {second.text}. {person} {" ".join(questions)}'


def text_records(cases: int, seed: int) -> list[Record]:
    """One text record per case, of one kind each; deterministic."""
    records = []
    for index in range(cases):
        case = simulate(seed, index, DOMAIN)
        rng = random.Random(f'text/{case.case_id}')
        write = rng.choice((_people, _people, _people, _times, _times, _values))
        records.append(
            Record(
                id=f'{case.case_id}-text',
                case_id=case.case_id,
                source='synthetic_text',
                text=write(case, rng),
            )
        )
    return records

"""Solvers for the other difficulty levels: what decides alone, and clinical notes.

Levels 1 and 2 have solvers of their own. The facts of a note are translated into the sentences of
level 3, whose solvers read them. As in `solvers`, nothing comes from the builders or the simulator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from bsft_jax.records.record import Record
from tests.behaviorbench import comparisons, solvers
from tests.behaviorbench.solvers import one

# What is charted behind a name and a colon -> clause.
CHARTED_HAZARDS = {
    'PCN allergy': 'is allergic to penicillin',
    'sulfa allergy': 'is allergic to sulfa',
    'latex allergy': 'is allergic to latex',
    'on warfarin 5 mg PO daily': 'takes warfarin',
    'on nitroglycerin 0.4 mg SL PRN': 'takes nitroglycerin',
    'on phenelzine 15 mg PO TID': 'takes phenelzine',
    'asthma since childhood': 'has asthma',
    'kidney failure, HD 3x/wk': 'has kidney failure',
    'pregnant, G1P0, 20 wk': 'is pregnant',
    'PPM (pacemaker) in situ': 'has a pacemaker',
    's/p AVR (heart valve)': 'has a heart valve',
    's/p nephrectomy, one kidney': 'has one kidney',
}
# Abbreviation and unit -> quantity.
CHARTED_VALUES = {
    'K (mmol/L': 'potassium',
    'Na (mmol/L': 'sodium',
    'Ca (mg/dL': 'calcium',
    'Mg (mg/dL': 'magnesium',
    'PO4 (mg/dL': 'phosphate',
    'Alb (g/dL': 'albumin',
    'Glu (mmol/L': 'glucose',
    'Hb (g/dL': 'hemoglobin',
    'UA (mg/dL': 'uric acid',
    'LDL (mmol/L': 'LDL',
    'MPV (fL': 'platelet volume',
    'SBP (mmHg': 'pressure',
    'HR (/min': 'pulse',
    'SpO2 (% RA': 'oxygen',
}
# A sentence of a note begins here: at the start, or behind another one, a heading or a bullet.
_START = r'(?:(?<=[.:|-] )|(?<=\n)|^)'


def _any_of(texts: Iterable[str]) -> str:
    return '|'.join(map(re.escape, texts))


_HAZARD = re.compile(rf'{_START}(\w+): ({_any_of(CHARTED_HAZARDS)})\.')
_VALUE = re.compile(rf'{_START}({_any_of(CHARTED_VALUES)})(?:, ([^)]+))?\): value ([\d.]*\d)\.')
_EVENT = re.compile(rf'{_START}Day (\d+): ([a-z ]+)\.')
_TEST = re.compile(rf'{_START}([A-Z][a-z ]+): (pending|final)\.')


def translate_note(note: str) -> str:
    """Returns a note with its facts in the words of level 3; all else is unchanged."""
    note = _HAZARD.sub(lambda match: f'{match[1]} {CHARTED_HAZARDS[match[2]]}.', note)
    note = _VALUE.sub(_to_value, note)
    note = _EVENT.sub(r'\2 on day \1.', note)
    note = _TEST.sub(lambda match: f'the {match[1].lower()} is {match[2]}.', note)
    note = re.sub(r' \d+ mg PO daily\.', '.', note)
    return ' '.join(note.split())


def _to_value(match: re.Match[str]) -> str:
    """Returns a value as level 3 tells it: behind its call limit, before its range."""
    quantity, limits, value = CHARTED_VALUES[match[1]], match[2], match[3]
    if not limits:
        return f'{quantity} is {value}.'
    if 'call' in limits:
        return f'{quantity} ({limits}) is {value}.'
    return f'{quantity} is {value} ({limits}).'


def solve_note(record: Record) -> tuple[int, str, bool]:
    """Returns what `solvers.solve` does, for a record whose first turn is a clinical note."""
    *_, last = record.messages
    text = translate_note(record.messages[0].content)
    if len(record.messages) > 1:
        text = f'{text} {last.content}'
    right, hard = solvers.SOLVERS[record.category](text, record.options)
    right = right or solvers.sign_option(last.content)
    return record.options.index(right), solvers.behavior_of(record.category, right), hard


def hazard(text: str) -> str:
    """Returns the name of the only hazard in a text, which must be the patient's; '' for none."""
    facts = solvers.holders(text)
    if ', ' in text and ('patient' in text or 'Seeing' in text):
        assert set(facts.values()) <= {solvers.patient(text)}, text
    assert len(facts) <= 1, text
    return next(iter(facts), '')


def differential_diagnosis(text, options):
    seen = {finding for finding in set().union(*solvers.FINDINGS.values()) if finding in text}
    assert len(seen) == 3, text
    return one(name for name, findings in solvers.FINDINGS.items() if seen == findings)


def image_reasoning(text, options):
    found = {key: reading for key, reading in solvers.SIGNS.items() if key.split(' ', 1)[1] in text}
    ((key, reading),) = found.items()
    device, sign = key.split(' ', 1)
    name = one(re.findall(r'(?:image of|What does|in|for|with) ([A-Z][a-z]+)\b[^.]*\?$', text))
    shows = '(?::| shows| there is| is back with)'
    assert re.search(rf'{device} of {name}{shows} {sign}|For {name}, .*{sign}', text), text
    return reading


def temporal_ordering(text, options):
    return solvers.temporal_ordering(text, options)[0]


def laboratory_interpretation(text, options):
    labs = re.findall(r'(\w+) is ([\d.]+) \(([\d.]+) to ([\d.]+)\)', text)
    return one(
        f'{"low" if Fraction(value) < Fraction(low) else "high"} {name}'
        for name, value, low, high in labs
        if not Fraction(low) <= Fraction(value) <= Fraction(high)
    )


def treatment_selection(text, options):
    problem = one(problem for problem in solvers.CHOICES if re.search(rf'\b{problem}\.', text))
    first, forbidding, instead = solvers.CHOICES[problem]
    name = hazard(text)
    assert name == forbidding or name not in solvers.UNWISE.get(first, '')
    return instead if name == forbidding else first


def medication_safety(text, options):
    drug = one(drug for drug in solvers.FORBIDDEN if re.search(rf'\b{drug}\b', text))
    forbidding, name = solvers.FORBIDDEN[drug], hazard(text)
    assert name and (name == forbidding or name not in solvers.UNWISE.get(drug, ''))
    return f'Hold for {name}' if name == forbidding else ''


def follow_up_planning(text, options):
    if 'nodule' in text:
        size = int(one(re.findall(r'(\d+) mm', text)))
        return 'Plan a lung scan' if size >= solvers.NODULE_MM else ''
    states = dict(re.findall(r'\bthe ([a-z ]+?) is (pending|final)', text))
    awaited = one(solvers.AWAITED.findall(text))
    pending = one(test for test, state in states.items() if state == 'pending')
    assert states.get(awaited) != 'final'
    return f'Chase the {pending}' if pending != awaited else ''


def deterioration_check(text, options):
    ((name, value),) = re.findall(r'(pressure|oxygen) is (\d+)\b', text)
    return f'Call for {name}' if int(value) <= solvers.URGENT[name] else ''


def omission_detection(text, options):
    name = hazard(text)
    return f'Add {name}' if name else ''


def error_correction(text, options):
    facts, written = re.match(r'(.*?)((?:[Dd]raft|[Nn]ote)(?: note)?: .*)', text).groups()
    mine = one(solvers.drugs_of(facts).values())
    drafted = one(solvers.WRITTEN_DRUG.findall(written))
    return f'Change to {mine}' if mine != drafted else ''


def consistency_check(text, options):
    return solvers.consistency_check(text, options)[0]


def critical_value_alert(text, options):
    ((name, side, limit, value),) = re.findall(
        r'(\w+) \(call (above|below) ([\d.]+)\) is ([\d.]+\d)', text
    )
    assert f'{name} {side} {limit}' in solvers.CALL_LIMITS
    value, limit = Fraction(value), Fraction(limit)
    return f'Call about {name}' if (value > limit if side == 'above' else value < limit) else ''


def ambiguity_clarification(text, options):
    doses = dict(re.findall(r'(\w+) \(([^)]+)\)', text))
    ordered = one(re.findall(r'(\w+) (?:as before|at the old dose)\.', text))
    return '' if 'mg' in doses[ordered] else f'Ask the {ordered} dose'


SOLVERS = {category: globals()[category] for category in solvers.SOLVERS}


def solve_simple(record: Record) -> tuple[int, str, bool]:
    """Returns what `solvers.solve` does, for a record of level 1 or 2, which is never hard."""
    text = solvers.words_of(record)
    right = SOLVERS[record.category](text, record.options) or solvers.sign_option(text)
    return record.options.index(right), solvers.behavior_of(record.category, right), False


def solve(record: Record) -> tuple[int, str, bool]:
    """Returns the right option's index, the behavior and whether the task is hard."""
    by_difficulty = {1: solve_simple, 2: solve_simple, 3: solvers.solve, 4: solve_note}
    return by_difficulty[record.difficulty](record)


# The spans that twins exchange in notes, where they are not those of level 3.
EXCHANGED_IN_NOTES = comparisons.EXCHANGED | {'medication_safety': r'[\w ,./()]+'}


def exchanged_in_note(category: str, one: str, other: str) -> Sequence[str]:
    """Returns the two spans that notes exchange; none if they differ in anything else."""
    spans = comparisons.exchanged(comparisons.tokens(one), comparisons.tokens(other)) or ()
    pattern = EXCHANGED_IN_NOTES[category]
    return spans if all(re.fullmatch(pattern, span) for span in spans) else ()

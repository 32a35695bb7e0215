"""Solvers: recompute the right answer of every task from its words alone.

Nothing here comes from the builders or the simulator: the medicine is written a second time, and
each solver reads the text with expressions of its own, so that a slip on either side shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from bsft_jax.records.record import Record
from tests.behaviorbench import comparisons

# Clause -> name in options, kind, drugs that it forbids.
HAZARDS = {
    'is allergic to penicillin': ('penicillin allergy', 'allergy', 'amoxicillin ampicillin'),
    'is allergic to sulfa': ('sulfa allergy', 'allergy', 'cotrimoxazole sulfadiazine'),
    'is allergic to latex': ('latex allergy', 'allergy', ''),
    'takes warfarin': ('warfarin', 'drug', 'ibuprofen naproxen'),
    'takes nitroglycerin': ('nitroglycerin', 'drug', 'sildenafil tadalafil'),
    'takes phenelzine': ('phenelzine', 'drug', 'sertraline fluoxetine'),
    'has asthma': ('asthma', 'condition', 'propranolol nadolol'),
    'has kidney failure': ('kidney failure', 'condition', 'metformin nitrofurantoin'),
    'is pregnant': ('pregnancy', 'condition', 'lisinopril enalapril'),
    'has a pacemaker': ('pacemaker', 'implant', ''),
    'has a heart valve': ('heart valve', 'implant', ''),
    'has one kidney': ('one kidney', 'condition', ''),
}
FORBIDDEN = {drug: name for name, _, drugs in HAZARDS.values() for drug in drugs.split()}
KIND = {name: kind for name, kind, _ in HAZARDS.values()}
# Drug -> other hazards that speak against it. Such a pair has no clear label and must not occur.
UNWISE = {
    'ibuprofen': 'kidney failure, pregnancy, asthma',
    'naproxen': 'kidney failure, pregnancy, asthma',
    'cotrimoxazole': 'warfarin, kidney failure, pregnancy',
    'sulfadiazine': 'warfarin, kidney failure, pregnancy',
    'sertraline': 'warfarin',
    'fluoxetine': 'warfarin, pregnancy',
    'propranolol': 'pregnancy, phenelzine',
    'nadolol': 'kidney failure, pregnancy, phenelzine',
    'tadalafil': 'kidney failure',
    'nitrofurantoin': 'pregnancy',
    'lisinopril': 'kidney failure',
    'enalapril': 'kidney failure',
    'amoxicillin': 'warfarin',
    'ampicillin': 'warfarin',
}
# Problem -> first choice, the hazard that forbids it, the drug that is given then.
CHOICES = {
    'strep throat': ('amoxicillin', 'penicillin allergy', 'azithromycin'),
    'a bladder infection': ('cotrimoxazole', 'sulfa allergy', 'ciprofloxacin'),
    'joint pain': ('ibuprofen', 'warfarin', 'acetaminophen'),
    'frequent migraines': ('propranolol', 'asthma', 'amitriptyline'),
    'type 2 diabetes': ('metformin', 'kidney failure', 'insulin'),
    'high blood pressure': ('lisinopril', 'pregnancy', 'labetalol'),
}
FINDINGS = {
    'appendicitis': {'right lower belly pain', 'nausea', 'rebound tenderness'},
    'cellulitis': {'redness', 'warm skin', 'spreading border'},
    'diabetes': {'thirst', 'frequent urination', 'weight loss'},
    'gout': {'swollen big toe', 'sudden joint pain', 'redness'},
    'heart failure': {'swelling of both legs', 'breathlessness lying flat', 'raised neck veins'},
    'hyperthyroidism': {'weight loss', 'heat intolerance', 'tremor'},
    'hypothyroidism': {'weight gain', 'cold intolerance', 'dry skin'},
    'lung embolism': {'sudden breathlessness', 'pleuritic pain', 'calf swelling'},
    'meningitis': {'fever', 'stiff neck', 'light sensitivity'},
    'migraine': {'one-sided headache', 'nausea', 'light sensitivity'},
    'pneumonia': {'fever', 'productive cough', 'crackles'},
    'pyelonephritis': {'fever', 'flank pain', 'burning urine'},
}
SIGNS = {
    'X-ray lobar consolidation': 'pneumonia',
    'X-ray a visible pleural line': 'pneumothorax',
    'X-ray a blunted costophrenic angle': 'pleural effusion',
    'X-ray Kerley B lines': 'lung edema',
    'X-ray free air under the diaphragm': 'perforated bowel',
    'X-ray dilated loops with fluid levels': 'bowel obstruction',
    'CT a crescent of blood': 'subdural hematoma',
    'CT a lens of blood': 'epidural hematoma',
    'ECG sawtooth waves': 'atrial flutter',
    'ECG ST elevation in II, III and aVF': 'inferior infarct',
}
RANGES = {
    'potassium': '3.5 to 5.0',
    'sodium': '135 to 145',
    'calcium': '8.5 to 10.5',
    'magnesium': '1.7 to 2.2',
    'phosphate': '2.5 to 4.5',
    'albumin': '3.5 to 5.0',
}
CALL_LIMITS = {
    'potassium above 6.5',
    'potassium below 2.5',
    'calcium below 6.5',
    'glucose below 2.5',
    'hemoglobin below 7.0',
}
# At or below, a vital sign scores 3 points of NEWS2; a pulse in the range scores fewer.
URGENT = {'pressure': 90, 'oxygen': 91}
PULSE = range(41, 131)
NODULE_MM = 6

# What is written between a patient and a problem.
NEEDS = r'(?:has|(?:needs help|came|is here|)\s?for|suffers from|wants help with)'
AWAITED = re.compile(r'(?:[Ww]ait(?:ing)? for|Await|Next step after|have|need) the ([a-z ]+)\.')
WRITTEN_DRUG = re.compile(
    r'(?:(?:[Hh]ome|Usual) drug(?::| is)|Continue(?: home)?|On|Takes|Stays on|Go on with) (\w+)[ .]'
)
ORDERS = [
    pattern.replace('FIRST', '(?P<first>[a-z ]+)').replace('SECOND', '(?P<second>[a-z ]+)')
    for pattern in (
        r'The FIRST (?:came before|was earlier than) the SECOND\.',
        r'The SECOND (?:came after|was later than|followed) the FIRST\.',
        r'(?:First|In order:|It was first) FIRST(?:, then|,| and then) SECOND\.',
        r'After the FIRST there was the SECOND\.',
        r'Before the SECOND there was the FIRST\.',
    )
]
# A solver takes the words of all turns and the options. It returns the right option ('' for signing
# the note) and whether the task is hard.
Solver = Callable[[str, Sequence[str]], tuple[str, bool]]


def one(items: Iterable[str]) -> str:
    """Returns the only item; raises ValueError for none or several."""
    (only,) = items
    return only


def patient(text: str) -> str:
    """Returns the name of the patient."""
    patterns = (
        r'(\w+) is (?:the|our) patient',
        r'Seeing (\w+) today',
        r'(\w+), (?:the|our) patient',
        r'(?:Our|The) patient(?: today)? is (\w+)',
    )
    return one({name for pattern in patterns for name in re.findall(pattern, text)})


def holders(text: str) -> dict[str, str]:
    """Returns the person that each mentioned hazard is true of."""
    matches = re.findall(rf'(\w+) ({"|".join(HAZARDS)})\.', text)
    facts = {HAZARDS[clause][0]: name for name, clause in matches}
    assert len(facts) == len(matches), text
    return facts


def differential_diagnosis(text, options):
    seen = {finding for finding in set().union(*FINDINGS.values()) if finding in text}
    assert len(seen) == 2, text
    shared = [name for name in options if FINDINGS[name] & seen]
    return one(name for name, findings in FINDINGS.items() if seen <= findings), len(shared) > 1


def image_reasoning(text, options):
    *sentences, question = re.split(r'(?<=[.?]) ', text)
    reading_of = {}
    for sentence in sentences:
        for key, reading in SIGNS.items():
            device, sign = key.split(' ', 1)
            if sign in sentence:
                name = re.search(r' of (\w+)|For (\w+),', sentence)
                assert device in sentence
                reading_of[name[1] or name[2]] = reading
    asked = one(name for name in reading_of if re.search(rf'\b{name}\b', question))
    other = one(name for name in reading_of if name != asked)
    assert reading_of[other] != reading_of[asked]
    return reading_of[asked], reading_of[other] in options


def temporal_ordering(text, options):
    days = {option: int(one(re.findall(rf'{option} on day (\d+)', text))) for option in options}
    assert len(set(days.values())) == 4 == len(re.findall(' on day ', text))
    order = sorted(days, key=days.get)
    if after := re.search(r'after the ([a-z ]+)\?$', text):
        right = order[order.index(after[1]) + 1]
    else:
        right = order[{'first': 0, 'last': -1}[one(re.findall(r'(first|last)\?$', text))]]
    return right, days[order[-1]] - days[order[0]] <= 5


def laboratory_interpretation(text, options):
    labs = re.findall(r'(\w+) is ([\d.]+) \(([\d.]+) to ([\d.]+)\)', text)
    assert len(labs) == 2
    assert all(RANGES[name] == f'{low} to {high}' for name, _, low, high in labs)
    abnormal = []
    for name, *numbers in labs:
        value, low, high = map(Fraction, numbers)
        for flag, limit, outside in (('low', low, value < low), ('high', high, value > high)):
            if outside:
                abnormal.append((f'{flag} {name}', abs(value - limit) <= limit / 10))
    assert set(options) == {f'{flag} {name}' for name, *_ in labs for flag in ('low', 'high')}
    return one(abnormal)


def treatment_selection(text, options):
    facts = holders(text)
    ((asked, problem),) = [
        (match[1], problem)
        for problem in CHOICES
        if (match := re.search(rf'(\w+) {NEEDS} {problem}\.', text))
    ]
    first, hazard, instead = CHOICES[problem]
    assert (
        len(facts) == len(set(facts.values())) == 2 and hazard in facts and asked in facts.values()
    )
    forbidden = facts[hazard] == asked
    assert not any(name in UNWISE.get(first, '') for name in facts if name != hazard), text
    assert {first, instead} < set(options)
    return (instead if forbidden else first), forbidden


def medication_safety(text, options):
    facts, drug = holders(text), one(drug for drug in FORBIDDEN if re.search(rf'\b{drug}\b', text))
    assert len(facts) == len(set(facts.values())) == 2 and patient(text) in facts.values()
    assert not any(name in UNWISE.get(drug, '') for name in facts if name != FORBIDDEN[drug]), text
    unsafe = facts[FORBIDDEN[drug]] == patient(text)
    return f'Hold for {FORBIDDEN[drug]}' if unsafe else '', len({KIND[name] for name in facts}) == 1


def follow_up_planning(text, options):
    if 'nodule' in text:
        assert re.search(r'(?:[Nn]o (?:more |further )?|with )scans?(?: planned| needed)?\.', text)
        nodule, cyst = (
            int(one(re.findall(rf'{what} of (\d+) mm', text))) for what in ('nodule', 'cyst')
        )
        return 'Plan a lung scan' if nodule >= NODULE_MM else '', abs(nodule - cyst) <= 2
    states = dict(re.findall(r'\bthe ([a-z ]+?) is (pending|final)', text))
    awaited = one(AWAITED.findall(text))
    assert len(states) == 2 and awaited in states
    pending = one(test for test, state in states.items() if state == 'pending')
    return f'Chase the {pending}' if pending != awaited else '', next(iter(states)) != awaited


def deterioration_check(text, options):
    values = {name: int(value) for name, value in re.findall(r'(\w+) is (\d+)\b', text)}
    pulse = values.pop('pulse')
    ((name, value),) = values.items()
    urgent = one(number for number in (value, pulse) if number <= URGENT[name])
    assert pulse in PULSE
    return f'Call for {name}' if value == urgent else '', URGENT[name] - urgent <= 3


def omission_detection(text, options):
    name, holder = one(holders(text).items())
    note = re.split(r'[Dd]raft|[Nn]ote', text, maxsplit=1)[1]
    assert name not in note
    others = [option[len('Add ') :] for option in options if option.startswith('Add ')]
    hard = any(KIND[other] == KIND[name] for other in others if other != name)
    return f'Add {name}' if holder == patient(text) else '', hard


def drugs_of(text: str) -> dict[str, str]:
    """Returns the drug of each person."""
    takes = re.findall(r'(\w+) (?:takes|is on|has been on|uses|was prescribed) (\w+)\.', text)
    of = re.findall(r'(?:For|[Dd]rug of|Medication of) (\w+)(?: it is| is|:) (\w+)\.', text)
    return dict(takes + of)


def error_correction(text, options):
    facts, written = re.match(r'(.*?)((?:[Dd]raft|[Nn]ote)(?: note)?: .*)', text).groups()
    drug_of = drugs_of(facts)
    drafted = one(WRITTEN_DRUG.findall(written))
    mine = drug_of[patient(text)]
    assert len(drug_of) == 2 and drafted in drug_of.values()
    return f'Change to {mine}' if mine != drafted else '', f'Change to {drafted}' in options


def consistency_check(text, options):
    (named,) = [match for pattern in ORDERS if (match := re.search(pattern, text))]
    first, second = named['first'], named['second']
    one_day, other_day = (int(one(re.findall(rf'{e} on day (\d+)', text))) for e in (first, second))
    assert one_day != other_day
    return f'Put {second} first' if other_day < one_day else '', abs(one_day - other_day) == 1


def critical_value_alert(text, options):
    (name, side, limit, value), *others = re.findall(
        r'(\w+) \(call (above|below) ([\d.]+)\) is ([\d.]+\d)', text
    )
    other = Fraction(one(re.findall(r'\(no call\) is ([\d.]+\d)', text)))
    assert not others and f'{name} {side} {limit}' in CALL_LIMITS
    value, limit = Fraction(value), Fraction(limit)
    extreme = one(
        number
        for number in (value, other)
        if (number > limit if side == 'above' else number < limit)
    )
    return f'Call about {name}' if value == extreme else '', abs(extreme - limit) <= limit / 20


def ambiguity_clarification(text, options):
    doses = dict(re.findall(r'(\w+) \(([^)]+)\)', text))
    ordered = one(re.findall(r'(\w+) (?:as before|at the old dose)\.', text))
    assert sorted(bool(re.fullmatch(r'\d+ mg', dose)) for dose in doses.values()) == [False, True]
    return '' if 'mg' in doses[ordered] else f'Ask the {ordered} dose', next(iter(doses)) == ordered


SOLVERS: dict[str, Solver] = {
    solver.__name__: solver
    for solver in (
        differential_diagnosis,
        image_reasoning,
        temporal_ordering,
        laboratory_interpretation,
        treatment_selection,
        medication_safety,
        follow_up_planning,
        deterioration_check,
        omission_detection,
        error_correction,
        consistency_check,
        critical_value_alert,
        ambiguity_clarification,
    )
}
SINGLE = [category for category in SOLVERS if category not in comparisons.EXCHANGED]


def words_of(record: Record) -> str:
    """Returns the words of all user turns."""
    return ' '.join(message.content for message in record.messages if message.role == 'user')


def sign_option(text: str) -> str:
    """Returns the option to sign the note of the draft."""
    return f'Sign {one(re.findall(r"(?:[Dd]raft|[Nn]ote): ([a-z ]+)[,;] ", text))} note'


def solve(record: Record) -> tuple[int, str, bool]:
    """Returns the right option's index, the behavior and whether the task is hard.

    They are computed from the words and options alone.
    """
    text = words_of(record)
    right, hard = SOLVERS[record.category](text, record.options)
    right = right or sign_option(text)
    return record.options.index(right), behavior_of(record.category, right), hard


def behavior_of(category: str, option: str) -> str:
    """Returns the behavior that an option stands for."""
    return 'reactive' if category in SINGLE or option.startswith('Sign ') else 'proactive'

"""The simulator: structured clinical cases, a pure function of (seed, index).

A case holds what is true; builders put it into words. Facts about a person come in two kinds:
those that a note must carry because a later decision can go wrong without them (allergies,
anticoagulants, implants, pregnancy, kidney function) and those that change nothing. The choice of
facts, the adult reference ranges and the drug classes are textbook ones of this project's choosing;
they have not been checked against a published table yet, and no label of a task depends on a range.
"""

from __future__ import annotations

import dataclasses
import random

WOMEN = (
    'Ana', 'Beth', 'Cora', 'Dina', 'Elsa', 'Faye', 'Gina', 'Hana', 'Iris', 'June', 'Kate', 'Lena', 'Mara',
    'Nora', 'Olga', 'Pia', 'Rosa', 'Sara', 'Tess', 'Vera',
)  # fmt: skip
MEN = (
    'Abe', 'Ben', 'Carl', 'Dan', 'Earl', 'Fred', 'Gus', 'Hugo', 'Ivan', 'Jack', 'Karl', 'Leo', 'Max', 'Ned',
    'Otto', 'Paul', 'Ray', 'Sam', 'Tom', 'Vic',
)  # fmt: skip
DOCTORS = ('Dr. Ito', 'Dr. Shah', 'Dr. Lund', 'Dr. Vega')
NURSES = ('RN Okafor', 'RN Price', 'RN Marsh', 'RN Cole')
RELATIONS = {'f': ('sister', 'mother', 'daughter', 'aunt'), 'm': ('brother', 'father', 'son', 'uncle')}


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something true of a person: `Ana {clause}`; `short` names it in an option.

    `kind` groups facts that are easily taken for each other.
    """

    clause: str
    short: str
    kind: str
    must_be_noted: bool


def _noted(kind: str, *pairs: tuple[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(clause, short, kind, True) for clause, short in pairs)


SAFETY_FACTS = (
    *_noted(
        'allergy',
        ('is allergic to penicillin', 'penicillin allergy'),
        ('is allergic to sulfa', 'sulfa allergy'),
        ('is allergic to latex', 'latex allergy'),
        ('is allergic to iodine', 'iodine allergy'),
    ),
    *_noted(
        'anticoagulant',
        ('takes warfarin', 'warfarin'),
        ('takes apixaban', 'apixaban'),
        ('takes heparin', 'heparin'),
    ),
    *_noted('implant', ('has a pacemaker', 'pacemaker'), ('has a heart valve', 'heart valve')),
    *_noted(
        'condition',
        ('is pregnant', 'pregnancy'),
        ('has one kidney', 'one kidney'),
        ('needs dialysis', 'dialysis'),
    ),
)  # fmt: skip
IDLE_FACTS = tuple(
    Fact(clause, clause, 'idle', False)
    for clause in (
        'wears glasses', 'likes to garden', 'plays the piano', 'has a dog', 'is left-handed',
        'works in a bank', 'walks to work', 'drinks tea', 'lives on a farm', 'reads at night',
        'came by bus', 'has red hair',
    )
)  # fmt: skip
COMPLAINTS = (
    'cough', 'ankle sprain', 'sore throat', 'back pain', 'earache', 'skin rash', 'migraine',
    'heartburn',
)  # fmt: skip
PLANS = ('rest and fluids', 'rest and ice', 'review in two days', 'call if worse', 'review next week')
EVENTS = (
    'fever', 'cough', 'rash', 'fall', 'chest pain', 'vomiting', 'headache', 'surgery', 'dizziness',
    'swelling',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Lab:
    """A laboratory value with its printed reference range, in units of the last printed digit."""

    name: str
    value: int
    low: int
    high: int
    decimals: int

    @property
    def flag(self) -> str:
        """`low`, `normal` or `high` against the printed range."""
        return 'low' if self.value < self.low else 'high' if self.value > self.high else 'normal'

    def show(self, number: int) -> str:
        return f'{number / 10**self.decimals:.{self.decimals}f}'

    @property
    def text(self) -> str:
        return f'{self.name} {self.show(self.value)} ({self.show(self.low)} to {self.show(self.high)})'


# name, low, high, decimals, smallest and largest simulated value
LABS = (
    ('potassium', 35, 50, 1, 25, 65),
    ('sodium', 136, 145, 0, 120, 158),
    ('calcium', 86, 102, 1, 65, 125),
    ('magnesium', 16, 26, 1, 10, 36),
    ('phosphorus', 30, 45, 1, 15, 65),
    ('albumin', 35, 55, 1, 20, 65),
)
DRUG_CLASSES = {
    'amoxicillin': 'penicillin', 'ampicillin': 'penicillin', 'warfarin': 'anticoagulant',
    'apixaban': 'anticoagulant', 'heparin': 'anticoagulant', 'lisinopril': 'ACE inhibitor',
    'enalapril': 'ACE inhibitor', 'metoprolol': 'beta blocker', 'atenolol': 'beta blocker',
    'ibuprofen': 'anti-inflammatory', 'naproxen': 'anti-inflammatory', 'morphine': 'opioid',
    'oxycodone': 'opioid', 'furosemide': 'diuretic', 'atorvastatin': 'statin',
    'simvastatin': 'statin',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """What is true of one visit.

    Attributes:
      case_id: names the case in records.
      patient, relative: first names; `relation` is what the relative is to the patient.
      safety: a fact that must be in the note of the person it is true of; `idle` one that need not.
      absent: a safety fact that is true of nobody here; of the kind of `safety` in a hard case.
      complaint, other_complaint: why the patient came, and a complaint that nobody has.
      timeline: (day, event), by day.
    """

    case_id: str
    doctor: str
    nurse: str
    patient: str
    relative: str
    relation: str
    age: int
    safety: Fact
    absent: Fact
    idle: Fact
    complaint: str
    other_complaint: str
    plan: str
    timeline: tuple[tuple[int, str], ...]
    labs: tuple[Lab, ...]
    drug: str


def _labs(rng: random.Random, number: int) -> tuple[Lab, ...]:
    return tuple(
        Lab(name, rng.randint(smallest, largest), low, high, decimals)
        for name, low, high, decimals, smallest, largest in rng.sample(LABS, number)
    )


def simulate(seed: int, index: int, domain: str = 'syn') -> Case:
    """Case number `index` of a seed; `domain` keeps pretraining cases apart from task cases."""
    rng = random.Random(f'{domain}/{seed}/{index}')
    people = {sex: rng.choice(RELATIONS[sex]) for sex in 'fm'}
    sex = rng.choice('fm')
    names = {'f': WOMEN, 'm': MEN}
    relative = rng.choice(names[sex])
    safety = rng.choice(SAFETY_FACTS)
    # Pregnancy is true of either person in one of the twins: both are women then.
    patient_sex = rng.choice('fm')
    if safety.short == 'pregnancy':
        sex = patient_sex = 'f'
        relative = rng.choice(WOMEN)
        people['f'] = rng.choice(('sister', 'daughter', 'aunt'))
    patient = rng.choice([name for name in names[patient_sex] if name != relative])
    same_kind = [f for f in SAFETY_FACTS if f.kind == safety.kind and f != safety]
    others = [f for f in SAFETY_FACTS if f.kind != safety.kind]
    complaint, other_complaint = rng.sample(COMPLAINTS, 2)
    spacing = rng.choice((1, 3))
    days = sorted(rng.sample(range(1, 1 + 4 * spacing + 2), 4))
    return Case(
        case_id=f'{domain}-{seed}-{index:07d}',
        doctor=rng.choice(DOCTORS),
        nurse=rng.choice(NURSES),
        patient=patient,
        relative=relative,
        relation=people[sex],
        age=rng.randint(20, 45),
        safety=safety,
        absent=rng.choice(same_kind if rng.random() < 0.5 else others),
        idle=rng.choice(IDLE_FACTS),
        complaint=complaint,
        other_complaint=other_complaint,
        plan=rng.choice(PLANS),
        timeline=tuple(zip(days, rng.sample(EVENTS, 4), strict=True)),
        labs=_labs(rng, 2),
        drug=rng.choice(list(DRUG_CLASSES)),
    )

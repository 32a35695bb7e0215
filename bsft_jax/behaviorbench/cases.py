"""The simulator: structured clinical cases, a pure function of (seed, index).

A case holds what is true; builders put it into words and derive the labels. Where a task has
twins the case holds both ends of the exchange (two people's facts, two values), and the twins
say which is whose.
"""

from __future__ import annotations

import dataclasses
import random

from bsft_jax.behaviorbench import medicine
from bsft_jax.behaviorbench.medicine import Analyte, Critical, Hazard, RedVital, Treatment

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
IDLE = (
    'wears glasses', 'likes to garden', 'plays the piano', 'has a dog', 'is left-handed',
    'works in a bank', 'walks to work', 'drinks tea', 'lives on a farm', 'reads at night',
    'came by bus', 'has red hair',
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
TESTS = ('culture', 'biopsy', 'urine test', 'blood count', 'smear')


@dataclasses.dataclass(frozen=True)
class Case:
    """What is true of one visit.

    Attributes:
      case_id: names the case in records.
      patient, relative: first names; `relation` is what the relative is to the patient.
      hazards: one that forbids some drugs, and another with which those drugs are fine.
      treated: likewise; the first forbids the first choice of `treatment`.
      noted: what must be in the note of the person it is true of; `absent` is true of nobody.
      idle, idle_too: facts that change nothing.
      drugs: three different ones of one usual dose, `dose`.
      complaint, other_complaint: why the patient came, and a complaint that nobody has.
      timeline: (day, event), by day, of four different days.
      labs: two analytes with values: exactly one is outside its range.
      critical: a quantity with a call limit, its value beyond the limit and its safe value.
      vital: likewise a vital sign, its red value and its calm one.
      nodule, cyst: sizes in mm, at or above and below the limit for follow-up.
      tests: two tests, one of them pending.
      diagnosis, findings: a diagnosis and two findings that only it has both of.
      images: two readings, the patient's and the relative's.
      treatment: a problem of the patient and its choices.
    """

    case_id: str
    doctor: str
    nurse: str
    patient: str
    relative: str
    relation: str
    hazards: tuple[Hazard, Hazard]
    treated: tuple[Hazard, Hazard]
    noted: Hazard
    absent: Hazard
    idle: str
    idle_too: str
    drugs: tuple[str, str, str]
    dose: str
    complaint: str
    other_complaint: str
    plan: str
    timeline: tuple[tuple[int, str], ...]
    labs: tuple[tuple[Analyte, int], ...]
    critical: Critical
    critical_values: tuple[int, int]
    vital: RedVital
    vital_values: tuple[int, int]
    nodule: int
    cyst: int
    tests: tuple[str, str]
    diagnosis: str
    findings: tuple[str, str]
    images: tuple[str, str]
    treatment: Treatment


def _labs(rng: random.Random) -> tuple[tuple[Analyte, int], ...]:
    off, fine = rng.sample(medicine.ANALYTES, 2)
    outside = rng.randint(off.smallest, off.low - 1), rng.randint(off.high + 1, off.largest)
    labs = [(off, rng.choice(outside)), (fine, rng.randint(fine.low, fine.high))]
    rng.shuffle(labs)
    return tuple(labs)


def _pair(forbids: Hazard, rng: random.Random) -> tuple[Hazard, Hazard]:
    return forbids, medicine.HAZARD[rng.choice(forbids.fine_with)]


def simulate(seed: int, index: int, domain: str = 'syn') -> Case:
    """Case number `index` of a seed; `domain` keeps pretraining cases apart from task cases."""
    rng = random.Random(f'{domain}/{seed}/{index}')
    names = {'f': WOMEN, 'm': MEN}
    treatment = rng.choice(medicine.TREATMENTS)
    hazards = _pair(rng.choice(medicine.HAZARDS), rng)
    treated = _pair(medicine.HAZARD[treatment.hazard], rng)
    noted, absent = rng.sample(medicine.HAZARDS + medicine.NOTED_TOO, 2)
    # A pregnancy is true of either person in one of the twins: both are women then, not mother and child.
    pregnancy = any(hazard.short == 'pregnancy' for hazard in (*hazards, *treated, noted))
    sex, patient_sex = ('f', 'f') if pregnancy else (rng.choice('fm'), rng.choice('fm'))
    relative = rng.choice(names[sex])
    patient = rng.choice([name for name in names[patient_sex] if name != relative])
    dose = rng.choice(list(medicine.DOSES))
    complaint, other_complaint = rng.sample(COMPLAINTS, 2)
    spacing = rng.choice((1, 3))
    days = sorted(rng.sample(range(1, 1 + 4 * spacing + 2), 4))
    critical, vital = rng.choice(medicine.CRITICALS), rng.choice(medicine.RED_VITALS)
    diagnosis = rng.choice(list(medicine.DIAGNOSES))
    idle, idle_too = rng.sample(IDLE, 2)
    return Case(
        case_id=f'{domain}-{seed}-{index:07d}',
        doctor=rng.choice(DOCTORS),
        nurse=rng.choice(NURSES),
        patient=patient,
        relative=relative,
        relation=rng.choice(('sister', 'cousin', 'niece') if pregnancy else RELATIONS[sex]),
        hazards=hazards,
        treated=treated,
        noted=noted,
        absent=absent,
        idle=idle,
        idle_too=idle_too,
        drugs=tuple(rng.sample(medicine.DOSES[dose], 3)),
        dose=dose,
        complaint=complaint,
        other_complaint=other_complaint,
        plan=rng.choice(PLANS),
        timeline=tuple(zip(days, rng.sample(EVENTS, 4), strict=True)),
        labs=_labs(rng),
        critical=critical,
        critical_values=(rng.randint(*critical.critical), rng.randint(*critical.safe)),
        vital=vital,
        vital_values=(rng.randint(*vital.red), rng.randint(*vital.calm)),
        nodule=rng.randint(medicine.NODULE_LIMIT, 9),
        cyst=rng.randint(2, medicine.NODULE_LIMIT - 1),
        tests=tuple(rng.sample(TESTS, 2)),
        diagnosis=diagnosis,
        findings=tuple(rng.sample(medicine.DIAGNOSES[diagnosis], 2)),
        images=tuple(rng.sample(list(medicine.IMAGES), 2)),
        treatment=treatment,
    )

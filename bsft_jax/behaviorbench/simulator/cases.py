"""Simulator of clinical cases: structured facts, a pure function of (seed, index).

A case holds what is true of one visit; the builders put it into words and derive the labels. Where
a task has twins, the case holds both sides of the exchange (two people's facts, two values), and
the twins differ in which side is whose.
"""

from __future__ import annotations

import dataclasses
import random

from bsft_jax.behaviorbench.simulator import medicine
from bsft_jax.behaviorbench.simulator.medicine import (
    Analyte,
    CallLimit,
    Hazard,
    Treatment,
    VitalSign,
)

WOMEN = (
    'Ana',
    'Beth',
    'Cora',
    'Dina',
    'Elsa',
    'Faye',
    'Gina',
    'Hana',
    'Iris',
    'June',
    'Kate',
    'Lena',
    'Mara',
    'Nora',
    'Olga',
    'Pia',
    'Rosa',
    'Sara',
    'Tess',
    'Vera',
)
MEN = (
    'Abe',
    'Ben',
    'Carl',
    'Dan',
    'Earl',
    'Fred',
    'Gus',
    'Hugo',
    'Ivan',
    'Jack',
    'Karl',
    'Leo',
    'Max',
    'Ned',
    'Otto',
    'Paul',
    'Ray',
    'Sam',
    'Tom',
    'Vic',
)
DOCTORS = ('Dr. Ito', 'Dr. Shah', 'Dr. Lund', 'Dr. Vega')
NURSES = ('RN Okafor', 'RN Price', 'RN Marsh', 'RN Cole')
RELATIONS = {
    'f': ('sister', 'mother', 'daughter', 'aunt'),
    'm': ('brother', 'father', 'son', 'uncle'),
}
IRRELEVANT_FACTS = (
    'wears glasses',
    'likes to garden',
    'plays the piano',
    'has a dog',
    'is left-handed',
    'works in a bank',
    'walks to work',
    'drinks tea',
    'lives on a farm',
    'reads at night',
    'came by bus',
    'has red hair',
)
COMPLAINTS = (
    'cough',
    'ankle sprain',
    'sore throat',
    'back pain',
    'earache',
    'skin rash',
    'migraine',
    'heartburn',
)
PLANS = (
    'rest and fluids',
    'rest and ice',
    'review in two days',
    'call if worse',
    'review next week',
)
EVENTS = (
    'fever',
    'cough',
    'rash',
    'fall',
    'chest pain',
    'vomiting',
    'headache',
    'surgery',
    'dizziness',
    'swelling',
)
TESTS = ('culture', 'biopsy', 'urine test', 'blood count', 'smear')


@dataclasses.dataclass(frozen=True)
class Case:
    """Holds the facts of one visit.

    Attributes:
      case_id: names the case in records.
      doctor, nurse: names of the speakers.
      patient, relative: first names of the patient and of the relative who came along.
      relation: the relative's relation to the patient.
      hazards: a hazard that forbids some drugs, and another that is compatible with those drugs.
      treatment_hazards: likewise; the first one forbids the first choice of `treatment`.
      noted_fact: a fact that must be in the note of the person it is true of.
      absent_fact: a fact of the same table that is true of nobody.
      irrelevant_fact, other_irrelevant_fact: facts that change nothing.
      drugs: three different drugs that share the usual dose `dose`.
      complaint: the reason for the visit.
      other_complaint: a complaint that nobody has.
      plan: the plan in the doctor's draft.
      timeline: four (day, event) pairs, ordered by day, all days different.
      labs: two analytes with their values; exactly one value is outside its range.
      critical_lab: a quantity with a call limit.
      critical_values: its value beyond the limit and its safe value.
      vital_sign: a vital sign with an urgent range.
      vital_values: its urgent value and its calm one.
      nodule, cyst: sizes in mm: at or above the limit for follow-up, and below it.
      tests: two tests, one of them pending.
      diagnosis: the diagnosis.
      findings: two findings that only `diagnosis` has both of.
      image_readings: what the patient's and the relative's images mean.
      treatment: a problem of the patient with its choices of treatment.
    """

    case_id: str
    doctor: str
    nurse: str
    patient: str
    relative: str
    relation: str
    hazards: tuple[Hazard, Hazard]
    treatment_hazards: tuple[Hazard, Hazard]
    noted_fact: Hazard
    absent_fact: Hazard
    irrelevant_fact: str
    other_irrelevant_fact: str
    drugs: tuple[str, str, str]
    dose: str
    complaint: str
    other_complaint: str
    plan: str
    timeline: tuple[tuple[int, str], ...]
    labs: tuple[tuple[Analyte, int], ...]
    critical_lab: CallLimit
    critical_values: tuple[int, int]
    vital_sign: VitalSign
    vital_values: tuple[int, int]
    nodule: int
    cyst: int
    tests: tuple[str, str]
    diagnosis: str
    findings: tuple[str, str]
    image_readings: tuple[str, str]
    treatment: Treatment


def _draw_labs(rng: random.Random) -> tuple[tuple[Analyte, int], ...]:
    abnormal, normal = rng.sample(medicine.ANALYTES, 2)
    outside = (
        rng.randint(abnormal.smallest, abnormal.low - 1),
        rng.randint(abnormal.high + 1, abnormal.largest),
    )
    labs = [(abnormal, rng.choice(outside)), (normal, rng.randint(normal.low, normal.high))]
    rng.shuffle(labs)
    return tuple(labs)


def _with_compatible(hazard: Hazard, rng: random.Random) -> tuple[Hazard, Hazard]:
    return hazard, medicine.HAZARD_BY_NAME[rng.choice(hazard.compatible_with)]


def simulate(seed: int, index: int, domain: str = 'syn') -> Case:
    """Returns case number `index` of a seed.

    The same arguments always give the same case.

    Args:
      seed: seed of the data set.
      index: number of the case in it.
      domain: separates the cases of pretraining from those of the tasks.
    """
    rng = random.Random(f'{domain}/{seed}/{index}')
    names = {'f': WOMEN, 'm': MEN}
    treatment = rng.choice(medicine.TREATMENTS)
    hazards = _with_compatible(rng.choice(medicine.HAZARDS), rng)
    treatment_hazards = _with_compatible(medicine.HAZARD_BY_NAME[treatment.hazard], rng)
    noted_fact, absent_fact = rng.sample(medicine.HAZARDS + medicine.OTHER_NOTED_FACTS, 2)
    # In one twin the patient is pregnant, in the other the relative: both must then be women, and
    # not mother and child.
    pregnancy = any(
        hazard.name == medicine.PREGNANCY for hazard in (*hazards, *treatment_hazards, noted_fact)
    )
    sex, patient_sex = ('f', 'f') if pregnancy else (rng.choice('fm'), rng.choice('fm'))
    relative = rng.choice(names[sex])
    patient = rng.choice([name for name in names[patient_sex] if name != relative])
    dose = rng.choice(list(medicine.DRUGS_BY_DOSE))
    complaint, other_complaint = rng.sample(COMPLAINTS, 2)
    # Half of the timelines are dense, so that events on neighboring days are common.
    spacing = rng.choice((1, 3))
    days = sorted(rng.sample(range(1, 1 + 4 * spacing + 2), 4))
    critical_lab = rng.choice(medicine.CALL_LIMITS)
    vital_sign = rng.choice(medicine.VITAL_SIGNS)
    diagnosis = rng.choice(list(medicine.DIAGNOSES))
    irrelevant_fact, other_irrelevant_fact = rng.sample(IRRELEVANT_FACTS, 2)
    # The order of the draws below is part of the format: changing it changes every case.
    return Case(
        case_id=f'{domain}-{seed}-{index:07d}',
        doctor=rng.choice(DOCTORS),
        nurse=rng.choice(NURSES),
        patient=patient,
        relative=relative,
        relation=rng.choice(('sister', 'cousin', 'niece') if pregnancy else RELATIONS[sex]),
        hazards=hazards,
        treatment_hazards=treatment_hazards,
        noted_fact=noted_fact,
        absent_fact=absent_fact,
        irrelevant_fact=irrelevant_fact,
        other_irrelevant_fact=other_irrelevant_fact,
        drugs=tuple(rng.sample(medicine.DRUGS_BY_DOSE[dose], 3)),
        dose=dose,
        complaint=complaint,
        other_complaint=other_complaint,
        plan=rng.choice(PLANS),
        timeline=tuple(zip(days, rng.sample(EVENTS, 4), strict=True)),
        labs=_draw_labs(rng),
        critical_lab=critical_lab,
        critical_values=(
            rng.randint(*critical_lab.critical_range),
            rng.randint(*critical_lab.safe_range),
        ),
        vital_sign=vital_sign,
        vital_values=(
            rng.randint(*vital_sign.urgent_range),
            rng.randint(*vital_sign.calm_range),
        ),
        nodule=rng.randint(medicine.NODULE_LIMIT, 9),
        cyst=rng.randint(2, medicine.NODULE_LIMIT - 1),
        tests=tuple(rng.sample(TESTS, 2)),
        diagnosis=diagnosis,
        findings=tuple(rng.sample(medicine.DIAGNOSES[diagnosis], 2)),
        image_readings=tuple(rng.sample(list(medicine.IMAGES), 2)),
        treatment=treatment,
    )

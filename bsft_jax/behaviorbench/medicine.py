"""What the simulator takes for true of medicine: small tables, with the sources they were checked against.

Numbers are for adults. Values are integers in units of the last printed digit (`decimals`), so that
comparisons are exact. `docs/tasks.md` lists the sources with addresses, and which entries rest on
general knowledge alone. Laboratories differ in ranges and limits; records print those they use.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Hazard:
    """Something about a person that makes some drugs unsafe, and that every note must carry.

    Attributes:
      clause: `Ana {clause}`.
      short: how an option names it.
      kind: groups hazards that are easily taken for each other.
      drugs: drugs that should not be given then; no drug belongs to two hazards.
      fine_with: other hazards (`short`) with which those drugs are not a problem.
    """

    clause: str
    short: str
    kind: str
    drugs: tuple[str, ...] = ()
    fine_with: tuple[str, ...] = ()


PENICILLIN, SULFA, WARFARIN = 'penicillin allergy', 'sulfa allergy', 'warfarin'
NITRO, PHENELZINE, ASTHMA = 'nitroglycerin', 'phenelzine', 'asthma'
KIDNEY, PREGNANCY = 'kidney failure', 'pregnancy'
# FDA labels: amoxicillin, propranolol (asthma), Cialis and Nitrostat (nitrates), Prozac (MAO inhibitors),
# enalapril and Prinivil (boxed warning, pregnancy). Warfarin with anti-inflammatory drugs: discouraged in
# reviews, a warning and no contraindication. `fine_with`: FDA 2020 on these drugs in pregnancy, Bactrim
# labelling 2013, Hale and Lesar 2013 (cotrimoxazole and warfarin).
HAZARDS = (
    Hazard(
        'is allergic to penicillin', PENICILLIN, 'allergy', ('amoxicillin', 'ampicillin'),
        (SULFA, NITRO, PHENELZINE, ASTHMA, KIDNEY, PREGNANCY),
    ),
    Hazard(
        'is allergic to sulfa', SULFA, 'allergy', ('cotrimoxazole', 'sulfadiazine'),
        (PENICILLIN, NITRO, PHENELZINE),
    ),
    Hazard('takes warfarin', WARFARIN, 'drug', ('ibuprofen', 'naproxen'), (PENICILLIN, SULFA, PHENELZINE)),
    Hazard(
        'takes nitroglycerin', NITRO, 'drug', ('sildenafil', 'tadalafil'),
        (PENICILLIN, SULFA, WARFARIN, ASTHMA),
    ),
    Hazard(
        'takes phenelzine', PHENELZINE, 'drug', ('sertraline', 'fluoxetine'),
        (PENICILLIN, SULFA, NITRO, ASTHMA),
    ),
    Hazard(
        'has asthma', ASTHMA, 'condition', ('propranolol', 'nadolol'), (PENICILLIN, SULFA, NITRO)
    ),
    Hazard(
        'has kidney failure', KIDNEY, 'condition', ('metformin', 'nitrofurantoin'),
        (PENICILLIN, SULFA, WARFARIN, NITRO, PHENELZINE, ASTHMA),
    ),
    Hazard(
        'is pregnant', PREGNANCY, 'condition', ('lisinopril', 'enalapril'),
        (PENICILLIN, SULFA, WARFARIN, NITRO, ASTHMA),
    ),
)  # fmt: skip
NOTED_TOO = (
    Hazard('has a pacemaker', 'pacemaker', 'implant'),
    Hazard('has a heart valve', 'heart valve', 'implant'),
    Hazard('has one kidney', 'one kidney', 'condition'),
    Hazard('is allergic to latex', 'latex allergy', 'allergy'),
)
HAZARD = {hazard.short: hazard for hazard in HAZARDS}


@dataclasses.dataclass(frozen=True)
class Treatment:
    """The first choice for a problem, and a later one that is given where `hazard` forbids it.

    `apart` names the problems whose drugs might help here, too: they are no wrong options.
    """

    problem: str
    first: str
    hazard: str
    instead: str
    apart: tuple[str, ...] = ()


# IDSA 2012 (strep throat), IDSA/ESCMID 2010 (bladder infection), ACR/AF 2019 (joint pain: osteoarthritis),
# AAN/AHS 2012 (migraine prevention: propranolol level A, amitriptyline level B), ACC/AHA 2017 and ACOG
# Practice Bulletin 203 (blood pressure). Diabetes: metformin's label (kidney failure).
TREATMENTS = (
    Treatment('strep throat', 'amoxicillin', PENICILLIN, 'azithromycin', ('a bladder infection',)),
    Treatment('a bladder infection', 'cotrimoxazole', SULFA, 'ciprofloxacin', ('strep throat',)),
    Treatment('joint pain', 'ibuprofen', WARFARIN, 'acetaminophen', ('frequent migraines',)),
    Treatment(
        'frequent migraines', 'propranolol', ASTHMA, 'amitriptyline', ('joint pain', 'high blood pressure')
    ),
    Treatment('type 2 diabetes', 'metformin', KIDNEY, 'insulin'),
    Treatment('high blood pressure', 'lisinopril', PREGNANCY, 'labetalol', ('frequent migraines',)),
)

# Every drug of a group is sold in that strength (labels at DailyMed).
DOSES = {
    '10 mg': ('lisinopril', 'enalapril', 'amlodipine', 'cetirizine'),
    '20 mg': ('fluoxetine', 'simvastatin', 'tadalafil', 'omeprazole'),
    '40 mg': ('propranolol', 'furosemide', 'pantoprazole', 'nadolol'),
    '50 mg': ('sertraline', 'atenolol', 'losartan', 'topiramate'),
    '500 mg': ('amoxicillin', 'metformin', 'naproxen', 'acetaminophen'),
}


def printed(number: int, decimals: int) -> str:
    """A value in units of its last digit as it stands in a chart: 35 with one decimal is `3.5`."""
    return f'{number / 10**decimals:.{decimals}f}'


@dataclasses.dataclass(frozen=True)
class Analyte:
    """A laboratory quantity: reference range and the range of values that the simulator draws."""

    name: str
    low: int
    high: int
    decimals: int
    smallest: int
    largest: int

    def show(self, number: int) -> str:
        return printed(number, self.decimals)


# Ranges within those of published tables (MSD Manual for calcium; teaching tables for the others).
ANALYTES = (
    Analyte('potassium', 35, 50, 1, 25, 65),  # mmol/L
    Analyte('sodium', 135, 145, 0, 120, 158),  # mmol/L
    Analyte('calcium', 85, 105, 1, 65, 130),  # mg/dL
    Analyte('magnesium', 17, 22, 1, 10, 35),  # mg/dL
    Analyte('phosphate', 25, 45, 1, 12, 75),  # mg/dL
    Analyte('albumin', 35, 50, 1, 20, 62),  # g/dL
)


@dataclasses.dataclass(frozen=True)
class Critical:
    """A quantity with a limit beyond which the laboratory calls, beside one that has none.

    A value in `critical` is beyond the limit, one in `safe` is not; both are harmless values of the
    `beside` quantity.
    """

    name: str
    side: str
    limit: int
    critical: tuple[int, int]
    safe: tuple[int, int]
    beside: str
    decimals: int = 1

    def show(self, number: int) -> str:
        return printed(number, self.decimals)


# Telephone limits: South West London Pathology (potassium), Sunrise Laboratories (calcium, hemoglobin),
# HEFT Pathology (glucose).
CRITICALS = (
    Critical('potassium', 'above', 65, (66, 72), (35, 50), 'uric acid'),  # mmol/L; mg/dL
    Critical('potassium', 'below', 25, (18, 24), (35, 48), 'LDL'),  # mmol/L; mmol/L
    Critical('glucose', 'below', 25, (15, 24), (40, 48), 'LDL'),  # mmol/L; mmol/L
    Critical('calcium', 'below', 65, (50, 64), (85, 105), 'platelet volume'),  # mg/dL; fL
    Critical('hemoglobin', 'below', 70, (50, 69), (95, 109), 'platelet volume'),  # g/dL; fL
)


@dataclasses.dataclass(frozen=True)
class RedVital:
    """A vital sign whose value in `red` scores 3 points of NEWS2, beside one that has values in both ranges.

    With the values exchanged neither scores more than 1. Oxygen is saturation in % on air.
    """

    name: str
    beside: str
    limit: int
    red: tuple[int, int]
    calm: tuple[int, int]


# Royal College of Physicians, NEWS2, 2017, chart 1, SpO2 scale 1.
RED_VITALS = (
    RedVital('pressure', 'pulse', 90, (70, 90), (101, 110)),
    RedVital('oxygen', 'pulse', 91, (84, 90), (96, 99)),
)

# Fleischner Society 2017 (MacMahon et al., Radiology 284:228).
NODULE_LIMIT = 6  # mm; solid, solitary, adults of 35 or more at low risk


# Findings that together point to one diagnosis; no two diagnoses share two of them.
DIAGNOSES = {
    'pneumonia': ('fever', 'productive cough', 'crackles'),
    'heart failure': ('swelling of both legs', 'breathlessness lying flat', 'raised neck veins'),
    'lung embolism': ('sudden breathlessness', 'pleuritic pain', 'calf swelling'),
    'meningitis': ('fever', 'stiff neck', 'light sensitivity'),
    'migraine': ('one-sided headache', 'nausea', 'light sensitivity'),
    'gout': ('swollen big toe', 'sudden joint pain', 'redness'),
    'hyperthyroidism': ('weight loss', 'heat intolerance', 'tremor'),
    'hypothyroidism': ('weight gain', 'cold intolerance', 'dry skin'),
    'diabetes': ('thirst', 'frequent urination', 'weight loss'),
    'pyelonephritis': ('fever', 'flank pain', 'burning urine'),
    'appendicitis': ('right lower belly pain', 'nausea', 'rebound tenderness'),
    'cellulitis': ('redness', 'warm skin', 'spreading border'),
}

IMAGES = {
    'pneumonia': ('X-ray', 'lobar consolidation'),
    'pneumothorax': ('X-ray', 'a visible pleural line'),
    'pleural effusion': ('X-ray', 'a blunted costophrenic angle'),
    'lung edema': ('X-ray', 'Kerley B lines'),
    'perforated bowel': ('X-ray', 'free air under the diaphragm'),
    'bowel obstruction': ('X-ray', 'dilated loops with fluid levels'),
    'subdural hematoma': ('CT', 'a crescent of blood'),
    'epidural hematoma': ('CT', 'a lens of blood'),
    'atrial flutter': ('ECG', 'sawtooth waves'),
    'inferior infarct': ('ECG', 'ST elevation in II, III and aVF'),
}

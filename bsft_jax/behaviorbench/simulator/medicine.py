"""Medical knowledge of the simulator: small tables and the sources they were checked against.

Numbers are for adults. Values are integers in units of their last printed digit (`decimals`), so
that comparisons are exact. `docs/tasks.md` lists the sources with addresses and says which entries
rest on general knowledge alone. Laboratories differ in ranges and limits; records print those they
use.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Hazard:
    """Describes a fact about a person that every note must carry and that may forbid some drugs.

    Attributes:
      clause: completes a sentence that begins with the person's name: `Ana {clause}`.
      name: names the hazard in options.
      kind: groups hazards that are easily mistaken for each other.
      charted: the fact as a clinical note writes it after the person's name and a colon.
      forbidden_drugs: drugs that this person should not be given. No drug is forbidden by two
        hazards.
      compatible_with: names of other hazards with which the forbidden drugs are not a problem.
    """

    clause: str
    name: str
    kind: str
    charted: str
    forbidden_drugs: tuple[str, ...] = ()
    compatible_with: tuple[str, ...] = ()


PENICILLIN, SULFA, WARFARIN = 'penicillin allergy', 'sulfa allergy', 'warfarin'
NITRO, PHENELZINE, ASTHMA = 'nitroglycerin', 'phenelzine', 'asthma'
KIDNEY, PREGNANCY = 'kidney failure', 'pregnancy'

# FDA labels: amoxicillin, propranolol (asthma), Cialis and Nitrostat (nitrates), Prozac (MAO
# inhibitors), enalapril and Prinivil (boxed warning, pregnancy). Warfarin with anti-inflammatory
# drugs is discouraged in reviews: a warning, no contraindication. `compatible_with`: FDA 2020 on
# these drugs in pregnancy, Bactrim labelling 2013, Hale and Lesar 2013 (cotrimoxazole and
# warfarin).
HAZARDS = (
    Hazard(
        clause='is allergic to penicillin',
        name=PENICILLIN,
        kind='allergy',
        charted='PCN allergy',
        forbidden_drugs=('amoxicillin', 'ampicillin'),
        compatible_with=(SULFA, NITRO, PHENELZINE, ASTHMA, KIDNEY, PREGNANCY),
    ),
    Hazard(
        clause='is allergic to sulfa',
        name=SULFA,
        kind='allergy',
        charted='sulfa allergy',
        forbidden_drugs=('cotrimoxazole', 'sulfadiazine'),
        compatible_with=(PENICILLIN, NITRO, PHENELZINE),
    ),
    Hazard(
        clause='takes warfarin',
        name=WARFARIN,
        kind='drug',
        charted='on warfarin 5 mg PO daily',
        forbidden_drugs=('ibuprofen', 'naproxen'),
        compatible_with=(PENICILLIN, SULFA, PHENELZINE),
    ),
    Hazard(
        clause='takes nitroglycerin',
        name=NITRO,
        kind='drug',
        charted='on nitroglycerin 0.4 mg SL PRN',
        forbidden_drugs=('sildenafil', 'tadalafil'),
        compatible_with=(PENICILLIN, SULFA, WARFARIN, ASTHMA),
    ),
    Hazard(
        clause='takes phenelzine',
        name=PHENELZINE,
        kind='drug',
        charted='on phenelzine 15 mg PO TID',
        forbidden_drugs=('sertraline', 'fluoxetine'),
        compatible_with=(PENICILLIN, SULFA, NITRO, ASTHMA),
    ),
    Hazard(
        clause='has asthma',
        name=ASTHMA,
        kind='condition',
        charted='asthma since childhood',
        forbidden_drugs=('propranolol', 'nadolol'),
        compatible_with=(PENICILLIN, SULFA, NITRO),
    ),
    Hazard(
        clause='has kidney failure',
        name=KIDNEY,
        kind='condition',
        charted='kidney failure, HD 3x/wk',
        forbidden_drugs=('metformin', 'nitrofurantoin'),
        compatible_with=(PENICILLIN, SULFA, WARFARIN, NITRO, PHENELZINE, ASTHMA),
    ),
    Hazard(
        clause='is pregnant',
        name=PREGNANCY,
        kind='condition',
        charted='pregnant, G1P0, 20 wk',
        forbidden_drugs=('lisinopril', 'enalapril'),
        compatible_with=(PENICILLIN, SULFA, WARFARIN, NITRO, ASTHMA),
    ),
)
HAZARD_BY_NAME = {hazard.name: hazard for hazard in HAZARDS}

# Facts that every note must carry, too, but that forbid no drug here.
OTHER_NOTED_FACTS = (
    Hazard('has a pacemaker', 'pacemaker', 'implant', 'PPM (pacemaker) in situ'),
    Hazard('has a heart valve', 'heart valve', 'implant', 's/p AVR (heart valve)'),
    Hazard('has one kidney', 'one kidney', 'condition', 's/p nephrectomy, one kidney'),
    Hazard('is allergic to latex', 'latex allergy', 'allergy', 'latex allergy'),
)


@dataclasses.dataclass(frozen=True)
class Treatment:
    """Describes the choices of treatment for a problem.

    Attributes:
      problem: the problem, as `{patient} has {problem}`.
      first_choice: the drug that is tried first.
      hazard: name of the hazard that forbids the first choice.
      alternative: a later choice, given where the hazard forbids the first.
      related_problems: problems whose drugs might help here, too. They make no wrong options.
    """

    problem: str
    first_choice: str
    hazard: str
    alternative: str
    related_problems: tuple[str, ...] = ()


# IDSA 2012 (strep throat), IDSA/ESCMID 2010 (bladder infection), ACR/AF 2019 (joint pain:
# osteoarthritis), AAN/AHS 2012 (migraine prevention: propranolol level A, amitriptyline level B),
# ACC/AHA 2017 and ACOG Practice Bulletin 203 (blood pressure). Diabetes: metformin's label (kidney
# failure).
TREATMENTS = (
    Treatment('strep throat', 'amoxicillin', PENICILLIN, 'azithromycin', ('a bladder infection',)),
    Treatment('a bladder infection', 'cotrimoxazole', SULFA, 'ciprofloxacin', ('strep throat',)),
    Treatment('joint pain', 'ibuprofen', WARFARIN, 'acetaminophen', ('frequent migraines',)),
    Treatment(
        'frequent migraines',
        'propranolol',
        ASTHMA,
        'amitriptyline',
        ('joint pain', 'high blood pressure'),
    ),
    Treatment('type 2 diabetes', 'metformin', KIDNEY, 'insulin'),
    Treatment('high blood pressure', 'lisinopril', PREGNANCY, 'labetalol', ('frequent migraines',)),
)

# Every drug of a group is sold in that strength (labels at DailyMed).
DRUGS_BY_DOSE = {
    '10 mg': ('lisinopril', 'enalapril', 'amlodipine', 'cetirizine'),
    '20 mg': ('fluoxetine', 'simvastatin', 'tadalafil', 'omeprazole'),
    '40 mg': ('propranolol', 'furosemide', 'pantoprazole', 'nadolol'),
    '50 mg': ('sertraline', 'atenolol', 'losartan', 'topiramate'),
    '500 mg': ('amoxicillin', 'metformin', 'naproxen', 'acetaminophen'),
}


def format_value(number: int, decimals: int) -> str:
    """Returns a value as a chart prints it.

    Args:
      number: the value in units of its last digit.
      decimals: digits after the point: 35 with one decimal is `3.5`.
    """
    return f'{number / 10**decimals:.{decimals}f}'


# Quantity -> its abbreviation in a clinical note, and its unit.
CHARTED = {
    'potassium': ('K', 'mmol/L'),
    'sodium': ('Na', 'mmol/L'),
    'calcium': ('Ca', 'mg/dL'),
    'magnesium': ('Mg', 'mg/dL'),
    'phosphate': ('PO4', 'mg/dL'),
    'albumin': ('Alb', 'g/dL'),
    'glucose': ('Glu', 'mmol/L'),
    'hemoglobin': ('Hb', 'g/dL'),
    'uric acid': ('UA', 'mg/dL'),
    'LDL': ('LDL', 'mmol/L'),
    'platelet volume': ('MPV', 'fL'),
    'pressure': ('SBP', 'mmHg'),
    'pulse': ('HR', '/min'),
    'oxygen': ('SpO2', '% RA'),
}


def chart_value(name: str, shown: str | int, limits: str = '') -> str:
    """Returns a quantity's sentence in a clinical note, such as `K (mmol/L, no call): value 4.1.`.

    The words next to the value are the same for all quantities, so that pairs of neighboring words
    do not tell whose value it is.
    """
    abbreviation, unit = CHARTED[name]
    return f'{abbreviation} ({", ".join(filter(None, (unit, limits)))}): value {shown}.'


@dataclasses.dataclass(frozen=True)
class Analyte:
    """Describes a laboratory quantity with a reference range.

    Attributes:
      name: the quantity.
      low, high: the reference range, both ends normal.
      decimals: digits after the point.
      smallest, largest: the range of values that the simulator draws from.
    """

    name: str
    low: int
    high: int
    decimals: int
    smallest: int
    largest: int

    def format(self, number: int) -> str:
        """Returns a value of this quantity as a chart prints it."""
        return format_value(number, self.decimals)


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
class CallLimit:
    """Describes a laboratory quantity with a limit beyond which the laboratory calls the ward.

    Attributes:
      name: the quantity.
      side: the side of the limit that is critical, `above` or `below`.
      limit: the call limit.
      critical_range: values beyond the limit.
      safe_range: values that are not.
      companion: a quantity without a limit, for which the values of both ranges are harmless.
      decimals: digits after the point.
    """

    name: str
    side: str
    limit: int
    critical_range: tuple[int, int]
    safe_range: tuple[int, int]
    companion: str
    decimals: int = 1

    def format(self, number: int) -> str:
        """Returns a value of this quantity as a chart prints it."""
        return format_value(number, self.decimals)


# Telephone limits: South West London Pathology (potassium), Sunrise Laboratories (calcium,
# hemoglobin), HEFT Pathology (glucose).
CALL_LIMITS = (
    CallLimit('potassium', 'above', 65, (66, 72), (35, 50), 'uric acid'),  # mmol/L; mg/dL
    CallLimit('potassium', 'below', 25, (18, 24), (35, 48), 'LDL'),  # mmol/L; mmol/L
    CallLimit('glucose', 'below', 25, (15, 24), (40, 48), 'LDL'),  # mmol/L; mmol/L
    CallLimit('calcium', 'below', 65, (50, 64), (85, 105), 'platelet volume'),  # mg/dL; fL
    CallLimit('hemoglobin', 'below', 70, (50, 69), (95, 109), 'platelet volume'),  # g/dL; fL
)


@dataclasses.dataclass(frozen=True)
class VitalSign:
    """Describes a vital sign with an urgent range, next to a companion that is harmless there.

    With the two values exchanged neither scores more than 1 point of NEWS2.

    Attributes:
      name: the vital sign. Oxygen is saturation in % on air.
      companion: a vital sign that may have a value in either range.
      limit: the highest value that scores 3 points of NEWS2.
      urgent_range: values that score 3 points.
      calm_range: values that do not.
    """

    name: str
    companion: str
    limit: int
    urgent_range: tuple[int, int]
    calm_range: tuple[int, int]


# Royal College of Physicians, NEWS2, 2017, chart 1, SpO2 scale 1.
VITAL_SIGNS = (
    VitalSign('pressure', 'pulse', 90, (70, 90), (101, 110)),
    VitalSign('oxygen', 'pulse', 91, (84, 90), (96, 99)),
)

# In mm, for solid solitary nodules in adults of 35 or more at low risk.
# Fleischner Society 2017 (MacMahon et al., Radiology 284:228).
NODULE_LIMIT = 6

# Diagnosis -> findings that together point to it; no two diagnoses share two of them.
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

# Reading -> the modality and the sign on the image that means it.
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

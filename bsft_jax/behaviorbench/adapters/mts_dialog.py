"""MTS-Dialog (github.com/abachaa/MTS-Dialog, CC BY 4.0): short dialogues with sections of notes.

Each dialogue gives a question: under which heading does its section belong? Wrong headings are
drawn as often as they are correct, so a frequent heading is no better guess.

If a dialogue and its section name the same drug, they also give twins: one record shows the section
as it is, the other with another drug in its place. Drugs are drawn as often as the set names them.

Files named `*Test*` are held out.
"""

from __future__ import annotations

import collections
import pathlib
import random
import re
from collections.abc import Mapping

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.behaviorbench.builders.scene import REVIEW
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record

COLUMNS = ('ID', 'section_header', 'section_text', 'dialogue')
HEADINGS = {
    'ALLERGY': 'Allergies',
    'ASSESSMENT': 'Assessment',
    'CC': 'Chief complaint',
    'DIAGNOSIS': 'Diagnosis',
    'DISPOSITION': 'Disposition',
    'EDCOURSE': 'Emergency department course',
    'EXAM': 'Examination',
    'FAM/SOCHX': 'Family and social history',
    'GENHX': 'History of present illness',
    'GYNHX': 'Gynecologic history',
    'IMAGING': 'Imaging',
    'IMMUNIZATIONS': 'Immunizations',
    'LABS': 'Laboratory results',
    'MEDICATIONS': 'Medications',
    'OTHER_HISTORY': 'Other history',
    'PASTMEDICALHX': 'Past medical history',
    'PASTSURGICAL': 'Past surgical history',
    'PLAN': 'Plan',
    'PROCEDURES': 'Procedures',
    'ROS': 'Review of systems',
}
HEADING_QUESTION = 'Under which heading of the note does this belong?'
HEADING_OPTIONS = 4
AGREES = 'The note agrees with the conversation.'
# The drugs that the set itself names.
_DRUG_NAMES = """
    abilify accutane aciphex adderall advair albuterol allegra amoxicillin aspirin atenolol
    atorvastatin augmentin avalide avodart bactrim beclomethasone benicar celebrex cephalexin
    ciprofloxacin citalopram claritin clonidine codeine coumadin cyclobenzaprine darvocet daypro
    demerol dilantin diovan estradiol flagyl flexeril flomax flonase fluticasone glucosamine
    glucotrol hydrochlorothiazide hydrocodone ibuprofen insulin keflex klonopin lamisil lanoxin
    lasix levaquin lexapro lipitor lisinopril loratadine lortab macrobid metformin methocarbamol
    metoprolol mevacor micronase minocin montelukast morphine naprosyn nexium norvasc omeprazole
    oxycontin paxil penicillin percocet plavix pravachol prednisone prevacid prilosec proventil
    prozac remeron risperdal salmeterol singulair sulfa synthroid terazosin toprol tramadol
    trazodone tylenol valium vicodin vioxx warfarin wellbutrin xanax zantac ziac zocor zoloft zyrtec
"""
DRUGS = tuple(_DRUG_NAMES.split())
_DRUG = re.compile(rf'\b(?:{"|".join(DRUGS)})\b', re.IGNORECASE)


def read(directory: str | pathlib.Path, seed: int = 0) -> common.AdapterResult:
    """Reads every CSV file of a folder.

    Raises:
      UserError: for a folder without CSV files and for a file that is not in MTS-Dialog's format.
    """
    rows, held_out = {}, set()
    for path in common.find_files('mts_dialog', directory, '*.csv'):
        for where, row in common.read_csv(path, COLUMNS):
            if row['section_header'] not in HEADINGS:
                raise UserError(f'unknown section_header {row["section_header"]!r}', where=where)
            name = f'mts_dialog-{path.stem}-{row["ID"]}'
            if name in rows:
                raise UserError(f'ID {row["ID"]!r} occurs twice', where=where)
            if 'test' in path.stem.lower():
                held_out.add(name)
            rows[name] = row
    heading_counts = collections.Counter(row['section_header'] for row in rows.values())
    # The order of the keys decides what is drawn, so it must not be that of a set.
    drug_counts = collections.Counter(drug for row in rows.values() for drug in _shared_drugs(row))
    records: list[Record] = []
    for name, row in rows.items():
        rng = random.Random(f'mts_dialog/{seed}/{name}')
        records.append(_heading_question(name, row, heading_counts, rng))
        records += _twins(name, row, drug_counts, rng)
    notes = {
        'rows': len(rows),
        'rows_with_a_shared_name': sum(bool(_shared_drugs(row)) for row in rows.values()),
    }
    return common.AdapterResult(records, notes, frozenset(held_out))


def _draw(
    rng: random.Random, counts: Mapping[str, int], number: int, excluded: set[str]
) -> list[str]:
    """Draws distinct keys, each in proportion to the counts of the keys that remain."""
    drawn: list[str] = []
    for _ in range(number):
        remaining = {
            key: count for key, count in counts.items() if key not in excluded and key not in drawn
        }
        drawn += rng.choices(list(remaining), list(remaining.values())) if remaining else []
    return drawn


def _dialogue(row: dict[str, str]) -> str:
    lines = (' '.join(line.split()) for line in row['dialogue'].splitlines())
    return '\n'.join(line.replace('Guest_', 'Guest ') for line in lines if line)


def _heading_question(
    name: str, row: dict[str, str], heading_counts: Mapping[str, int], rng: random.Random
) -> Record:
    correct = row['section_header']
    keys = [correct, *_draw(rng, heading_counts, HEADING_OPTIONS - 1, {correct})]
    choices = [(HEADINGS[key], 'reactive') for key in keys]
    return common.make_record(
        f'{_dialogue(row)}\n\n{HEADING_QUESTION}',
        choices,
        0,
        common.shuffled_order(rng, choices),
        id=f'{name}-heading',
        case_id=name,
        source='mts_dialog',
        license='CC-BY-4.0',
    )


def _named_drugs(text: str) -> set[str]:
    return {drug.lower() for drug in _DRUG.findall(text)}


def _shared_drugs(row: dict[str, str]) -> list[str]:
    """Returns the drugs that both the dialogue and the section name, in lower case and sorted."""
    return sorted(_named_drugs(row['dialogue']) & _named_drugs(row['section_text']))


def _twins(
    name: str, row: dict[str, str], drug_counts: Mapping[str, int], rng: random.Random
) -> list[Record]:
    """Returns the twins of a row; none if it shares no drug or the set has too few others."""
    shared = _shared_drugs(row)
    mentioned = _named_drugs(f'{row["dialogue"]} {row["section_text"]}')
    others = _draw(rng, drug_counts, 2, mentioned)
    if not shared or len(others) < 2:
        return []
    spoken = rng.choice(shared)
    wrong, third = others
    # Each option names (the drug that was said, the drug in the note).
    claims = [(spoken, wrong), (wrong, spoken), (spoken, third)]
    choices = [(AGREES, 'reactive')]
    choices += [(f'{a.capitalize()} was said, the note has {b}.', 'proactive') for a, b in claims]
    order, request = common.shuffled_order(rng, choices), rng.choice(REVIEW.seen)
    section, heading = ' '.join(row['section_text'].split()), HEADINGS[row['section_header']]

    def replace_drug(match: re.Match[str]) -> str:
        if match[0].lower() != spoken:
            return match[0]
        return wrong.capitalize() if match[0][0].isupper() else wrong

    def twin(kind: str, shown: str, answer: int, rationale: str) -> Record:
        return common.make_record(
            f'{_dialogue(row)}\n\n{heading}: {shown}\n\n{request}',
            choices,
            answer,
            order,
            category='medication_safety',
            id=f'{name}-name-{kind}',
            case_id=name,
            pair_id=f'{name}-name',
            source='mts_dialog',
            license='CC-BY-4.0',
            rationale=rationale,
        )

    changed = _DRUG.sub(replace_drug, section)
    return [
        twin('changed', changed, 1, f'The patient spoke of {spoken}.'),
        twin('kept', section, 0, 'The note has the name that was said.'),
    ]

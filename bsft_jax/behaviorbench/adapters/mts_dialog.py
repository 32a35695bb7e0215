"""MTS-Dialog (github.com/abachaa/MTS-Dialog, CC BY 4.0): short dialogues, each with the section of a note it became.

Every dialogue is asked for its section; wrong headings are drawn as often as they are right, so that a frequent one
is no better guess. Where dialogue and section name the same drug, they give twins: the section as it is,
and with another name in its place. Names that are put in are drawn as often as they stand in the set.
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
from bsft_jax.behaviorbench.records import Record
from bsft_jax.errors import UserError

COLUMNS = ('ID', 'section_header', 'section_text', 'dialogue')
HEADINGS = {
    'ALLERGY': 'Allergies', 'ASSESSMENT': 'Assessment', 'CC': 'Chief complaint', 'DIAGNOSIS': 'Diagnosis',
    'DISPOSITION': 'Disposition', 'EDCOURSE': 'Emergency department course', 'EXAM': 'Examination',
    'FAM/SOCHX': 'Family and social history', 'GENHX': 'History of present illness',
    'GYNHX': 'Gynecologic history', 'IMAGING': 'Imaging', 'IMMUNIZATIONS': 'Immunizations',
    'LABS': 'Laboratory results', 'MEDICATIONS': 'Medications', 'OTHER_HISTORY': 'Other history',
    'PASTMEDICALHX': 'Past medical history', 'PASTSURGICAL': 'Past surgical history', 'PLAN': 'Plan',
    'PROCEDURES': 'Procedures', 'ROS': 'Review of systems',
}  # fmt: skip
WHICH = 'Under which heading of the note does this belong?'
CHOICES = 4
AGREES = 'The note agrees with the conversation.'
NAMES = (  # drugs that the set itself names
    'abilify', 'accutane', 'aciphex', 'adderall', 'advair', 'albuterol', 'allegra', 'amoxicillin', 'aspirin',
    'atenolol', 'atorvastatin', 'augmentin', 'avalide', 'avodart', 'bactrim', 'beclomethasone', 'benicar',
    'celebrex', 'cephalexin', 'ciprofloxacin', 'citalopram', 'claritin', 'clonidine', 'codeine', 'coumadin',
    'cyclobenzaprine', 'darvocet', 'daypro', 'demerol', 'dilantin', 'diovan', 'estradiol', 'flagyl',
    'flexeril', 'flomax', 'flonase', 'fluticasone', 'glucosamine', 'glucotrol', 'hydrochlorothiazide',
    'hydrocodone', 'ibuprofen', 'insulin', 'keflex', 'klonopin', 'lamisil', 'lanoxin', 'lasix', 'levaquin',
    'lexapro', 'lipitor', 'lisinopril', 'loratadine', 'lortab', 'macrobid', 'metformin', 'methocarbamol',
    'metoprolol', 'mevacor', 'micronase', 'minocin', 'montelukast', 'morphine', 'naprosyn', 'nexium',
    'norvasc', 'omeprazole', 'oxycontin', 'paxil', 'penicillin', 'percocet', 'plavix', 'pravachol',
    'prednisone', 'prevacid', 'prilosec', 'proventil', 'prozac', 'remeron', 'risperdal', 'salmeterol',
    'singulair', 'sulfa', 'synthroid', 'terazosin', 'toprol', 'tramadol', 'trazodone', 'tylenol', 'valium',
    'vicodin', 'vioxx', 'warfarin', 'wellbutrin', 'xanax', 'zantac', 'ziac', 'zocor', 'zoloft', 'zyrtec',
)  # fmt: skip
_NAME = re.compile(rf'\b(?:{"|".join(NAMES)})\b', re.IGNORECASE)


def read(directory: str | pathlib.Path, seed: int = 0) -> common.Loaded:
    """Records from every CSV file of a folder.

    Raises UserError for a folder without one and for a file that is not what MTS-Dialog publishes.
    """
    rows, held_out = {}, set()
    for path in common.files('mts_dialog', directory, '*.csv'):
        for where, row in common.table(path, COLUMNS):
            if row['section_header'] not in HEADINGS:
                raise UserError(f'unknown section_header {row["section_header"]!r}', where=where)
            name = f'mts_dialog-{path.stem}-{row["ID"]}'
            if name in rows:
                raise UserError(f'ID {row["ID"]!r} is there twice', where=where)
            if 'test' in path.stem.lower():
                held_out.add(name)
            rows[name] = row
    headings = collections.Counter(row['section_header'] for row in rows.values())
    named = collections.Counter(word for row in rows.values() for word in set(_shared(row)))
    records: list[Record] = []
    for name, row in rows.items():
        rng = random.Random(f'mts_dialog/{seed}/{name}')
        records.append(_heading(name, row, headings, rng))
        records += _twins(name, row, named, rng)
    notes = {'rows': len(rows), 'rows_with_a_shared_name': sum(bool(_shared(row)) for row in rows.values())}
    return common.Loaded(records, notes, frozenset(held_out))


def _drawn(rng: random.Random, counts: Mapping[str, int], count: int, without: set[str]) -> list[str]:
    """So many different keys, each draw by the counts of those that are left."""
    drawn: list[str] = []
    for _ in range(count):
        left = {key: n for key, n in counts.items() if key not in without and key not in drawn}
        drawn += rng.choices(list(left), list(left.values())) if left else []
    return drawn


def _dialogue(row: dict[str, str]) -> str:
    lines = (' '.join(line.split()) for line in row['dialogue'].splitlines())
    return '\n'.join(line.replace('Guest_', 'Guest ') for line in lines if line)


def _heading(name: str, row: dict[str, str], headings: Mapping[str, int], rng: random.Random) -> Record:
    right = row['section_header']
    keys = [right, *_drawn(rng, headings, CHOICES - 1, {right})]
    choices = [(HEADINGS[key], 'reactive') for key in keys]
    return common.record(
        f'{_dialogue(row)}\n\n{WHICH}', choices, 0, common.shuffled(rng, choices),
        id=f'{name}-heading', case_id=name, source='mts_dialog', license='CC-BY-4.0',
    )  # fmt: skip


def _shared(row: dict[str, str]) -> list[str]:
    """Names that the dialogue and the section have, in lower case."""
    said = {name.lower() for name in _NAME.findall(row['dialogue'])}
    return sorted(said & {name.lower() for name in _NAME.findall(row['section_text'])})


def _twins(name: str, row: dict[str, str], named: Mapping[str, int], rng: random.Random) -> list[Record]:
    shared = _shared(row)
    mentioned = {x.lower() for x in _NAME.findall(f'{row["dialogue"]} {row["section_text"]}')}
    others = _drawn(rng, named, 2, mentioned)
    if not shared or len(others) < 2:
        return []
    right = rng.choice(shared)
    wrong, third = others
    texts = [(right, wrong), (wrong, right), (right, third)]  # (what was said, what the note says)
    choices = [(AGREES, 'reactive')]
    choices += [(f'{a.capitalize()} was said, the note has {b}.', 'proactive') for a, b in texts]
    order, request = common.shuffled(rng, choices), rng.choice(REVIEW.seen)
    section, heading = ' '.join(row['section_text'].split()), HEADINGS[row['section_header']]

    def put(match: re.Match[str]) -> str:
        if match[0].lower() != right:
            return match[0]
        return wrong.capitalize() if match[0][0].isupper() else wrong

    def twin(kind: str, shown: str, answer: int, rationale: str) -> Record:
        return common.record(
            f'{_dialogue(row)}\n\n{heading}: {shown}\n\n{request}', choices, answer, order,
            category='medication_safety', id=f'{name}-name-{kind}', case_id=name, pair_id=f'{name}-name',
            source='mts_dialog', license='CC-BY-4.0', rationale=rationale,
        )  # fmt: skip

    return [
        twin('changed', _NAME.sub(put, section), 1, f'The patient spoke of {right}.'),
        twin('kept', section, 0, 'The note has the name that was said.'),
    ]

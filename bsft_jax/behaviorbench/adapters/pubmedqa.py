"""PubMedQA (github.com/pubmedqa/pubmedqa, MIT): questions to an abstract without its conclusion.

Always answered yes, no or maybe, in this order. Of the 1,000 published answers 552, 338 and 110 are that: look at
macro-F1. The 500 questions of `test_ground_truth.json` are held out.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.errors import UserError

ANSWERS = ('yes', 'no', 'maybe')
QUESTIONS, TEST = 'ori_pqal.json', 'test_ground_truth.json'


def read(directory: str | pathlib.Path, seed: int = 0) -> common.Loaded:
    """Records of the labelled questions (PQA-L).

    Raises UserError for a folder without them and for a file that is not what PubMedQA publishes.
    """
    del seed
    path = common.files('pubmedqa', directory, QUESTIONS)[0]
    test = path.with_name(TEST)
    held_out = _objects(test) if test.is_file() else {}
    records = []
    for pmid, question in _objects(path).items():
        where = f'{path}: {pmid}'
        asked = common.field(question, 'QUESTION', str, where)
        context = '\n'.join(map(str, common.field(question, 'CONTEXTS', list, where)))
        answer = common.field(question, 'final_decision', str, where)
        if answer not in ANSWERS:
            raise UserError(f'final_decision {answer!r} is not one of {", ".join(ANSWERS)}', where=where)
        name = f'pubmedqa-{pmid}'
        records.append(
            common.record(
                f'{context}\n\n{asked}',
                [(option.capitalize(), 'reactive') for option in ANSWERS],
                ANSWERS.index(answer),
                id=name,
                case_id=name,
                source='pubmedqa',
                license='MIT',
                rationale=' '.join(common.field(question, 'LONG_ANSWER', str, where).split()),
            )
        )
    notes = {'rows': len(records), 'held_out_by_its_authors': len(held_out)}
    tested = frozenset(f'pubmedqa-{pmid}' for pmid in held_out)
    return common.Loaded(records, notes, tested, fixed_options=True)


def _objects(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(f'not a JSON file in UTF-8 ({error})', where=str(path)) from error
    if not isinstance(found, dict):
        raise UserError(f'must be an object, got {type(found).__name__}', where=str(path))
    return found

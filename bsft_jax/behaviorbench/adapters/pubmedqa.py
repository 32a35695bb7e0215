"""PubMedQA (github.com/pubmedqa/pubmedqa, MIT): questions about an abstract without its conclusion.

The options are always yes, no and maybe, in this order. Of the 1,000 published answers 552 are yes,
338 no and 110 maybe, so macro-F1 is the metric to read. The 500 questions of
`test_ground_truth.json` are held out.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.errors import UserError

ANSWERS = ('yes', 'no', 'maybe')
QUESTIONS_FILE, TEST_FILE = 'ori_pqal.json', 'test_ground_truth.json'


def read(directory: str | pathlib.Path, seed: int = 0) -> common.AdapterResult:
    """Reads the labelled questions (PQA-L); nothing depends on the seed.

    Raises:
      UserError: for a folder without the questions and for a file that is not in PubMedQA's format.
    """
    del seed
    path = common.find_files('pubmedqa', directory, QUESTIONS_FILE)[0]
    test_path = path.with_name(TEST_FILE)
    test_answers = _read_object(test_path) if test_path.is_file() else {}
    records = []
    for pmid, question in _read_object(path).items():
        where = f'{path}: {pmid}'
        request = common.json_field(question, 'QUESTION', str, where)
        context = '\n'.join(map(str, common.json_field(question, 'CONTEXTS', list, where)))
        answer = common.json_field(question, 'final_decision', str, where)
        if answer not in ANSWERS:
            raise UserError(
                f'final_decision {answer!r} is not one of {", ".join(ANSWERS)}', where=where
            )
        name = f'pubmedqa-{pmid}'
        rationale = common.json_field(question, 'LONG_ANSWER', str, where)
        records.append(
            common.make_record(
                f'{context}\n\n{request}',
                [(option.capitalize(), 'reactive') for option in ANSWERS],
                ANSWERS.index(answer),
                id=name,
                case_id=name,
                source='pubmedqa',
                license='MIT',
                rationale=' '.join(rationale.split()),
            )
        )
    notes = {'rows': len(records), 'held_out_by_its_authors': len(test_answers)}
    held_out = frozenset(f'pubmedqa-{pmid}' for pmid in test_answers)
    return common.AdapterResult(records, notes, held_out, fixed_options=True)


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(f'not a JSON file in UTF-8 ({error})', where=str(path)) from error
    if not isinstance(value, dict):
        raise UserError(f'must be an object, got {type(value).__name__}', where=str(path))
    return value

"""Evaluations made without a model, for reviews."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence

from bsft_jax import files
from bsft_jax.data import eval_records
from bsft_jax.records.digest import digest_of_words
from bsft_jax.records.record import Record

SOURCE = 'synthetic:40'
LEVELS = {'reactive': 0.0, 'proactive': 1.0}


def write_evaluation(
    folder: pathlib.Path,
    records: Sequence[Record],
    predict: Callable[[int, Record], int],
    source: str = SOURCE,
) -> pathlib.Path:
    """Writes the folder of an evaluation in which record i has the option `predict(i, record)`."""
    rows = [
        {
            'id': record.id,
            'case_id': record.case_id,
            'pair_id': record.pair_id,
            'category': record.category,
            'group': record.group,
            'behavior': record.behavior,
            'answer': record.answer,
            'prediction': predict(i, record),
            'behavior_logprobs': None,
            'option_logprobs': {'none': [0.0] * len(record.options)},
            'option_behaviors': list(record.option_behaviors),
            'digest': digest_of_words(record),
        }
        for i, record in enumerate(records)
    ]
    folder.mkdir(parents=True)
    files.write_lines(folder / 'predictions.jsonl', rows)
    settings = {'policy': 'auto', 'prompt': 'plain', 'split': 'test', 'data': source}
    settings |= {'behaviors': LEVELS, 'answer_format': 'letter'}
    files.write_json(folder / 'metrics.json', settings)
    return folder


def right(i: int, record: Record) -> int:
    """Predicts the right option."""
    return record.answer


def mostly_wrong(i: int, record: Record) -> int:
    """Predicts the option after the right one, but of every fifth record."""
    return (record.answer + bool(i % 5)) % len(record.options)


def third(i: int, record: Record) -> int:
    """Predicts an option that changes from record to record."""
    return i % len(record.options)


def write_three(root: pathlib.Path) -> list[str]:
    """Writes three evaluations of the synthetic test records, and returns their folders."""
    records = eval_records.load_scorable(SOURCE, 'test')
    return [
        str(write_evaluation(root / f'runs/secret-{name}/eval/test-auto', records, predict))
        for name, predict in (('qwen', right), ('llama', mostly_wrong), ('gemma', third))
    ]


def write_records(path: pathlib.Path, rows: Sequence[dict]) -> list[Record]:
    """Writes records as a JSONL source of the split `test`, and returns them as they are read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return eval_records.load_scorable(f'jsonl:{path}', 'test')

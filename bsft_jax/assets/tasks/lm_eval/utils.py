"""Reads the records and scores the choices of this folder's task for lm-evaluation-harness."""

import json
import pathlib
from typing import Any

import datasets


def _read(split: str) -> list[dict[str, Any]]:
    with (pathlib.Path(__file__).parent / f'{split}.jsonl').open(encoding='utf-8') as file:
        return [json.loads(line) for line in file]


_GROUPS = sorted({row['group'] for row in _read('test')})


def load(**_: Any) -> dict[str, datasets.Dataset]:
    """Returns the splits that have records.

    They are read here and not by `datasets`, which would look for the files in the working folder
    and take texts that look like dates for dates.
    """
    splits = {split: _read(split) for split in ('train', 'validation', 'test')}
    return {split: datasets.Dataset.from_list(rows) for split, rows in splits.items() if rows}


def process_results(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, Any]:
    """Returns what the metrics of behavior_bench.yaml aggregate, for one record.

    The metric of another group than the record's gets None.

    Args:
      doc: the record.
      results: log-probability of each choice, and whether it is the most probable text.
    """
    scores = [score for score, _ in results]
    prediction = scores.index(max(scores))
    item = (doc['category'], doc['answer'], prediction)
    right = float(prediction == doc['answer'])
    by_group = {f'macro_f1_{group}': item if group == doc['group'] else None for group in _GROUPS}
    return {'acc': right, 'macro_f1': item, **by_group}

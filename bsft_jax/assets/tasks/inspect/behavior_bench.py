"""Asks the records of this folder as a task of inspect_ai."""

import math
import pathlib

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import Metric, SampleScore, accuracy, choice, metric, stderr
from inspect_ai.solver import multiple_choice
from macro_f1 import macro_f1


@metric
def grouped_macro_f1() -> Metric:
    """Returns the metric that gives macro-F1 overall and by group.

    `macro_f1_GROUP` is that of a group's records; `no_answer` is the share of replies that name no
    option. Such a reply counts as wrong. Without any reply, as before the first one, all is NaN.
    """

    def score(scores: list[SampleScore]) -> dict[str, float]:
        groups: dict[str, list[tuple[str, int, int | None]]] = {}
        for one in scores:
            record, letter = one.sample_metadata, one.score.answer
            item = (
                record['category'],
                record['answer'],
                ord(letter) - ord('A') if letter else None,
            )
            groups.setdefault(record['group'], []).append(item)
        items = [item for group in groups.values() for item in group]
        num_silent = sum(prediction is None for *_, prediction in items)
        return {
            'macro_f1': macro_f1(items),
            **{f'macro_f1_{name}': macro_f1(groups[name]) for name in sorted(groups)},
            'no_answer': num_silent / len(items) if items else math.nan,
        }

    return score


@task
def behavior_bench(split: str = 'test') -> Task:
    """Returns the task for the records of a split: `train`, `validation` or `test`."""
    return Task(
        dataset=json_dataset(str(pathlib.Path(__file__).parent / f'{split}.jsonl')),
        solver=multiple_choice(),
        scorer=choice(),
        metrics=[accuracy(), stderr(), grouped_macro_f1()],
    )

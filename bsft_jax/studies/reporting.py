"""Writes the summary and the page of a study from its results."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.behaviorbench import shortcuts
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.evaluation.metrics import metrics_from_predictions
from bsft_jax.inference import policies
from bsft_jax.report import study_page, table
from bsft_jax.studies import summary as summary_lib
from bsft_jax.studies.study import Point, Study


def write_report(
    study: Study, points: Sequence[Point], rows: Sequence[dict[str, Any]], directory: pathlib.Path
) -> str:
    """Writes `summary.json` and `report.html` of a study.

    Args:
      study: the study.
      points: all of its points.
      rows: rows of `results.jsonl`.
      directory: folder of the study.

    Returns:
      The summary as plain text.
    """
    config = points[0].config
    behaviors = BehaviorSet(config.behaviors)
    results, notes = with_oracle_rows(rows, directory, behaviors.highest, behaviors.levels)
    summary = summary_lib.summarize_study(
        study.name,
        results,
        endpoint=study.endpoint,
        published=list(study.published),
        levels=behaviors.levels,
        over_rate=study.over_rate,
    )
    seen = table.contamination_lines([(row['arm'], row['metrics']) for row in rows])
    summary['notes'] = [*dict.fromkeys(seen), *notes, *summary['notes']]
    train, test = (sources.load_records(config.data.source, split) for split in ('train', 'test'))
    summary['shortcuts'] = shortcuts.format_baselines(shortcuts.shortcut_baselines(train, test))
    files.write_json(directory / 'summary.json', summary)
    page = study_page.write_page(directory)
    return f'{summary_lib.format_summary(summary)}\n\n{summary["shortcuts"]}\n\nwritten: {page}'


def with_oracle_rows(
    rows: Sequence[dict[str, Any]],
    directory: pathlib.Path,
    positive: str,
    levels: Mapping[str, float] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Adds the predictions to rows of `results.jsonl`, and rows under the policy `oracle`.

    The row of a model that chooses its behavior is followed by a second one, for the predictions it
    would make if it always chose the labelled behavior.

    Args:
      rows: rows of `results.jsonl`.
      directory: folder of the study.
      positive: the behavior of the highest level.
      levels: the level of each behavior.

    Returns:
      The rows, each with `predictions`, and a note for each arm without `oracle` because a record
      has no behavior of that model.
    """
    complete, notes = [], []
    for row in rows:
        predictions = _read_predictions(row, directory)
        complete.append({**row, 'predictions': predictions})
        if not predictions[0]['behavior_logprobs']:
            continue
        try:
            relabelled = policies.apply_policy(predictions, policies.Policy('oracle'))
        except UserError as error:
            notes.append(f'{row["arm"]} is not shown under the policy oracle ({error}).')
            continue
        metrics = metrics_from_predictions(
            relabelled,
            policy='oracle',
            prompt=row['evaluation']['prompt'],
            positive=positive,
            levels=levels,
        )
        complete.append(
            {
                **row,
                'evaluation': {**row['evaluation'], 'policy': 'oracle'},
                'metrics': metrics,
                'predictions': relabelled,
            }
        )
    return complete, list(dict.fromkeys(notes))


def _read_predictions(row: dict[str, Any], directory: pathlib.Path) -> list[dict[str, Any]]:
    path = directory / row['workdir'] / 'eval' / row['evaluation']['name'] / 'predictions.jsonl'
    return files.read_lines(path)

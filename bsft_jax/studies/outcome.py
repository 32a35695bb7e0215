"""From the results of a study to its summary, its page, and the text that is printed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.behaviorbench import shortcuts, sources
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.inference import policies
from bsft_jax.report import study_page
from bsft_jax.studies import summary as summary_lib
from bsft_jax.studies.study import Point, Study


def _predictions(row: dict[str, Any], directory: pathlib.Path) -> list[dict[str, Any]]:
    path = directory / row['workdir'] / 'eval' / row['evaluation']['name'] / 'predictions.jsonl'
    return files.read_lines(path)


def with_policies(
    rows: Sequence[dict[str, Any]], directory: pathlib.Path, positive: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of `results.jsonl` with their predictions; those of a model that chooses once more as `oracle`.

    The second result are notes: of arms without `oracle`, since a record has no behavior of theirs.
    """
    complete, notes = [], []
    for row in rows:
        predictions = _predictions(row, directory)
        complete.append({**row, 'predictions': predictions})
        if not predictions[0]['behavior_logprobs']:
            continue
        try:
            known = policies.with_labels(predictions)
        except UserError as error:
            notes.append(f'{row["arm"]} is not shown under the policy oracle ({error}).')
            continue
        prompt = row['evaluation']['prompt']
        metrics = metrics_lib.summarize(known, policy='oracle', prompt=prompt, positive=positive)
        evaluation = {**row['evaluation'], 'policy': 'oracle'}
        complete.append({**row, 'evaluation': evaluation, 'metrics': metrics, 'predictions': known})
    return complete, list(dict.fromkeys(notes))


def write(
    study: Study, points: Sequence[Point], rows: Sequence[dict[str, Any]], directory: pathlib.Path
) -> str:
    """Writes `summary.json` and `report.html`; returns what is printed."""
    positive = BehaviorSet(points[0].config.behaviors).highest
    complete, notes = with_policies(rows, directory, positive)
    summary = summary_lib.summarize(
        study.name, complete, endpoint=study.endpoint, published=list(study.published)
    )
    summary['notes'] = notes + summary['notes']
    source = points[0].config.data.source
    train, test = (sources.load_records(source, split) for split in ('train', 'test'))
    summary['shortcuts'] = shortcuts.table(shortcuts.shortcut_baselines(train, test))
    files.write_json(directory / 'summary.json', summary)
    page = study_page.write_page(directory)
    return f'{summary_lib.format_summary(summary)}\n\n{summary["shortcuts"]}\n\nwritten: {page}'

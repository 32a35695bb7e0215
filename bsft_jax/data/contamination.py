"""Refusals and warnings where records are scored that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from bsft_jax.data import eval_records, generated, sources
from bsft_jax.data.trained_on import Overlap, TrainedOn
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record


def describe(overlap: Overlap | None, scored: str = 'scored records') -> str:
    """Returns a line that says how many records a model was trained on; None is not known."""
    if overlap is None:
        return f'how many of the {scored} the model was trained on is not known'
    parts = [f'{overlap.records} of {overlap.scored} {scored} were trained on']
    for count, what in (
        (overlap.texts, 'in the same words'),
        (overlap.ids, 'with the id of one that was'),
        (overlap.cases, 'of a case that was'),
    ):
        parts += [f'{count} {what}'] if count else []
    line = ', '.join(parts)
    return f'warning: {line}' if overlap else line


def check_scored(
    trained: TrainedOn | None, source: str, split: str, records: Sequence[Record]
) -> None:
    """Raises UserError where a split that training set apart holds records that were trained on.

    That is so for a source of the run whose records have changed since, or whose splits share
    records. It is not for the training split, which is scored on purpose, for a source without
    splits, and for other sources: their records are counted, with a warning.

    Args:
      trained: what the model was trained on; None if that is not known.
      source: where the records are from.
      split: their split.
      records: the records that are scored.
    """
    if trained is None or split == 'train' or not all(record.split for record in records):
        return
    digests = {part: trained.digest_of(part) for part, _ in sources.parse_mixture(source)}
    overlap = trained.overlap(records)
    if not (overlap or overlap.ids) or not any(digests.values()):
        return
    counted = describe(overlap).removeprefix('warning: ')
    fix = 'train a new run on it, or count and score them by --allow_trained_on'
    for part, digest in digests.items():
        if digest and TrainedOn.of_records(sources.load_records(part, 'train')).digest != digest:
            raise UserError(
                f'was made again since the model was trained on it: {counted}',
                where=part,
                fix=fix,
            )
    if overlap.ids or overlap.cases:
        raise UserError(f'its splits are not apart: {counted}', where=source, fix=fix)


def split_warnings(trained: TrainedOn, source: str, split: str) -> list[str]:
    """Returns a line for a split of a run's own source that holds records that are trained on.

    Raises UserError as `load_records` does.
    """
    if generated.is_generated(source):
        return []
    if warning := eval_records.unsplit_warning(source):
        return [warning]
    overlap = trained.overlap(sources.load_records(source, split))
    return [f'{describe(overlap, f"{split} records")}'] if overlap else []

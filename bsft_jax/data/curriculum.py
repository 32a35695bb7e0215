"""Curricula: the records of the levels that a run draws, and the mixture of each of its stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bsft_jax.config import RunConfig
from bsft_jax.config.curriculum import FLAG
from bsft_jax.data import sources
from bsft_jax.data.mixture import Mixture, apportion
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record, describe_record


def levels_of(records: Sequence[Record]) -> np.ndarray:
    """Returns the difficulty level of each record, int8[R]; 0 for none."""
    return np.asarray([record.difficulty or 0 for record in records], np.int8)


def check_levels(config: RunConfig, parts: Sequence[Sequence[Record]]) -> None:
    """Checks that the records of each part of a source have the levels that a curriculum needs.

    Raises UserError for a record without a level, and as `stage_mixtures` does.
    """
    if not config.data.curriculum:
        return
    for records in parts:
        if unrated := [record for record in records if record.difficulty is None]:
            raise UserError(
                f'{len(unrated)} of {len(records)} records have no difficulty, the first is '
                f'{describe_record(unrated[0])}',
                where=FLAG,
                fix='give each a difficulty from 1 to 9, or train without a curriculum',
            )
    stage_mixtures(config, [levels_of(records) for records in parts])


def keep_levels(config: RunConfig, records: Sequence[Record]) -> list[Record]:
    """Returns the records of levels that some stage draws; all of them without a curriculum."""
    named = set().union(*config.curriculum_stages.values())
    return [record for record in records if not named or record.difficulty in named]


def stage_mixtures(config: RunConfig, levels: Sequence[np.ndarray]) -> dict[int, Mixture]:
    """Returns the mixture of each stage, by its first step; empty without a curriculum.

    A stage draws the levels that it names. Their weights divide the share of each part of the
    source among those that it has records of.

    Args:
      config: the run.
      levels: level of each record, an array for each part of the source.

    Raises UserError for a level without a record, for a part that has none of a stage's levels, and
    for a weight so small that an epoch has no record of its level.
    """
    return {
        step: _stage_mixture(config, levels, weights, step)
        for step, weights in config.curriculum_stages.items()
    }


def _stage_mixture(
    config: RunConfig, levels: Sequence[np.ndarray], weights: dict[int, float], step: int
) -> Mixture:
    parts = sources.parse_mixture(config.data.source)
    stage = f'the stage from step {step} on' if step else 'the first stage'
    known = set(np.concatenate(levels).tolist())
    if missing := sorted(weights.keys() - known):
        raise UserError(
            f'no training record has level {missing[0]}, which {stage} draws; there are levels '
            f'{", ".join(map(str, sorted(known)))}',
            where=FLAG,
        )
    strata: list[np.ndarray] = []
    shares: list[float] = []
    names: list[str] = []
    first_record = 0
    for (source, share), levels_N in zip(parts, levels, strict=True):
        own = sorted(weights.keys() & set(levels_N.tolist()))
        if not own:
            raise UserError(
                f'{stage} draws no level that {source} has a record of',
                where=FLAG,
                fix='name one of its levels, or leave it out of --config.data.source',
            )
        total = sum(weights[level] for level in own)
        for level in own:
            strata.append(first_record + np.flatnonzero(levels_N == level))
            shares.append(share * weights[level] / total)
            names.append(f'level {level}' + (f' of {source}' if len(parts) > 1 else ''))
        first_record += len(levels_N)
    sizes = [len(records_N) for records_N in strata]
    counts = apportion(sum(sizes), tuple(shares))
    if 0 in counts:
        raise UserError(
            f'{stage} has no record of {names[counts.index(0)]} in an epoch of {sum(sizes):,}',
            where=FLAG,
            fix='raise its weight or leave it out',
        )
    return Mixture(tuple(sizes), tuple(shares), np.concatenate(strata), tuple(names))

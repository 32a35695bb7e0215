"""Evaluators: measures of a run's parameters while it trains, by the names that configs use."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bsft_jax.config import RunConfig
from bsft_jax.data import (
    checks,
    eval_records,
    labels,
    loader,
    packing,
    pipeline,
    rendering,
    sources,
)
from bsft_jax.data.curriculum import levels_of
from bsft_jax.data.mixture import Mixture
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.hub.pretrained import PretrainedSpec
from bsft_jax.inference import policies, scoring
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.records.record import Record, evenly_spaced_subset
from bsft_jax.training import loss as loss_lib
from bsft_jax.training.loop import Evaluator


def _validation_records(config: RunConfig, records: list[Record]) -> list[Record]:
    """Returns at most `evaluation.limit` records without the category that training excludes."""
    records = labels.exclude_category(records, config.data.exclude_category)
    return evenly_spaced_subset(records, config.evaluation.limit)


def _several(levels: Iterable[int]) -> list[int]:
    """Returns the difficulty levels among `levels`, where 0 is none; nothing if all are alike."""
    distinct = sorted({int(level) for level in levels} - {0})
    return distinct if len(distinct) > 1 else []


class ScoreEvaluator:
    """Computes macro-F1 and the choice of behavior on the validation split, under policy `auto`."""

    def __init__(self, config: RunConfig, spec: PretrainedSpec, network: Network, mesh: Mesh):
        source = config.data.source
        records = _validation_records(config, eval_records.load_scorable(source, 'validation'))
        renderer = pipeline.training_renderer(config, spec.tokenizer, spec.behaviors)
        self._network = network
        self._records = scoring.drop_too_long(
            records,
            renderer,
            network,
            config.data.max_dropped_fraction,
            where='--config.data.max_dropped_fraction',
        )
        self._scorer = scoring.Scorer(
            self._records,
            renderer,
            network,
            mesh,
            policy='auto',
            tokens_per_batch=config.evaluation.tokens_per_batch,
        )

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns macro-F1 over all categories and by group, and the same of several levels.

        `selection` is macro-F1 of the most probable behavior against the labelled one.
        """
        scores = self._scorer(self._network, params)
        values = metrics_lib.metrics_from_confusion(scores.confusion_CKK, scores.categories)
        rows = policies.predictions(self._records, scores)
        return {
            'validation/macro_f1': values['overall'],
            **{
                f'validation/macro_f1/{name}': value
                for name, value in values['groups'].items()
                if name
            },
            **_selection(rows, 'validation/selection'),
            **self._metrics_by_level(rows),
        }

    def _metrics_by_level(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        levels_R = levels_of(self._records)
        metrics: dict[str, float] = {}
        for level in _several(levels_R):
            own = [rows[i] for i in np.flatnonzero(levels_R == level)]
            values = metrics_lib.metrics_from_predictions(own, policy='auto', prompt='plain')
            metrics[f'validation/macro_f1/difficulty_{level}'] = values['overall']['macro_f1']
            metrics |= _selection(own, f'validation/selection/difficulty_{level}')
        return metrics


def _selection(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Returns macro-F1 of the chosen behaviors under a name; nothing where none are labelled."""
    values = metrics_lib.selection_metrics(rows)
    return {} if values is None else {name: values['macro_f1']}


# It belongs to the module, so that evaluators of the same shapes run one compiled program.
_weighted_sums = jax.jit(loss_lib.weighted_sums, static_argnames='network')


class LossEvaluator:
    """Computes the training loss, without dropout, on the validation split."""

    def __init__(self, config: RunConfig, spec: PretrainedSpec, network: Network, mesh: Mesh):
        data = config.data
        records = _validation_records(config, sources.load_records(data.source, 'validation'))
        renderer = pipeline.training_renderer(config, spec.tokenizer, spec.behaviors)
        checks.check_records(records, renderer, config.behaviors, data.unlabeled)
        store, _ = rendering.render_examples(
            renderer, records, data.sequence_length, data.max_dropped_fraction, data.truncate_turns
        )
        shards = mesh_lib.batch_shards(mesh)
        rows = -(-data.global_batch_rows // shards) * shards
        # Level → records that are measured apart; 0 for all others.
        levels = _several(store.levels)
        chosen_N = np.where(np.isin(store.levels, levels), store.levels, 0)
        self._mesh, self._batches = mesh, []
        for level in np.unique(chosen_N).tolist():
            records_N = np.flatnonzero(chosen_N == level)
            mixtures = {0: Mixture((len(records_N),), (1.0,), records_N)} if levels else None
            plan = packing.PackPlan(store.lengths, rows, data.sequence_length, 0, mixtures)
            # The bound is that of the whole store, so it is the same for every level.
            self._network = dataclasses.replace(network, max_segments=plan.max_records_per_row)
            source = loader.BatchSource(
                store,
                plan,
                row_multiple=shards,
                local_rows=functools.partial(sharding.local_rows, mesh),
            )
            # The plan's first epoch holds every record once; a partial step at its end is padding.
            self._batches += [
                (level, loader.to_device(source[step], mesh, source.local_rows, source.rows))
                for step in range(plan.steps_per_epoch)
            ]

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns the losses per target token: all, behavior tokens and the rest; also by level."""
        # Level → name → sum.
        totals: dict[int, dict[str, float]] = {}
        with jax.set_mesh(self._mesh):
            for level, batch in self._batches:
                sums = jax.device_get(_weighted_sums(self._network, params, batch))
                weight = float(jax.device_get(batch.weights_BT.sum()))
                own = totals.setdefault(level, {})
                for name, value in {**sums, 'weight': weight}.items():
                    own[name] = own.get(name, 0.0) + float(value)
        names = next(iter(totals.values()))
        whole = {name: sum(own[name] for own in totals.values()) for name in names}
        losses = _losses(whole, '')
        for level, own in totals.items():
            losses |= _losses(own, f'/difficulty_{level}') if level else {}
        return losses


def _losses(sums: dict[str, float], suffix: str) -> dict[str, float]:
    means = loss_lib.means(sums, np.maximum(sums['weight'], 1e-9))
    return {
        f'validation/{name}{suffix}': float(means[name])
        for name in ('loss', 'behavior_loss', 'response_loss')
    }


MakeEvaluator = Callable[[RunConfig, PretrainedSpec, Network, Mesh], Evaluator]
EVALUATORS: dict[str, MakeEvaluator] = {'scores': ScoreEvaluator, 'loss': LossEvaluator}


def check_evaluators(config: RunConfig) -> None:
    """Raises UserError for a name in `evaluation.evaluators` that no evaluator has."""
    for name in config.evaluation.names:
        if name not in EVALUATORS:
            raise UserError(
                f'{name!r} is not one of {", ".join(EVALUATORS)}',
                where='--config.evaluation.evaluators',
                fix='write names separated by commas',
            )


def make_evaluators(
    config: RunConfig, spec: PretrainedSpec, network: Network, mesh: Mesh
) -> tuple[Evaluator, ...]:
    """Returns the evaluators that `evaluation.evaluators` names; none without an interval.

    Raises UserError for a validation split that cannot be measured.
    """
    if not config.evaluation.interval:
        return ()
    check_evaluators(config)
    try:
        return tuple(
            EVALUATORS[name](config, spec, network, mesh) for name in config.evaluation.names
        )
    except UserError as error:
        raise UserError(
            str(error), fix='or train without validation: --config.evaluation.interval=0'
        ) from error

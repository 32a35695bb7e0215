"""Plans the runs of a scaling study and checks them before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bsft_jax.config import RunConfig
from bsft_jax.config.types import check_types
from bsft_jax.data import eval_records, pipeline, sources
from bsft_jax.errors import UserError
from bsft_jax.files import check_name
from bsft_jax.scaling import losses, saturating
from bsft_jax.scaling import points as points_lib
from bsft_jax.studies import sizing
from bsft_jax.studies.scaling_study import ScalingPoint, ScalingStudy
from bsft_jax.studies.sizing import Size
from bsft_jax.studies.study import Arm, Point, json_digest, load_config, with_overrides
from bsft_jax.training import setup

_POINTS = 'points of the study'
_HELD_OUT = 'held_out of the study'


@dataclasses.dataclass(frozen=True)
class ScalingRun:
    """Represents the training of one point by one arm with one seed.

    Attributes:
      name: of the point.
      run: its config and folder.
      budget: name of its compute budget; '' for none.
      size: size of its model.
    """

    name: str
    run: Point
    budget: str
    size: Size

    @property
    def tokens(self) -> int:
        """Returns the tokens that it trains on if its rows are full."""
        return sizing.planned_tokens(self.run.config)

    @property
    def flops(self) -> float:
        """Returns the FLOPs of so many tokens."""
        return self.size.flops_per_token * self.tokens

    def row(self, tokens: int, measured: dict[str, float]) -> dict[str, Any]:
        """Returns its row of `points.csv`, with what was measured."""
        return {
            'point': self.name,
            **({'arm': self.run.arm} if self.run.arm else {}),
            'seed': self.run.seed,
            'params': self.size.params,
            'non_embedding': self.size.non_embedding,
            'tokens': tokens,
            'flops': self.size.flops_per_token * tokens,
            **({'budget': self.budget} if self.budget else {}),
            **measured,
        }


def plan_runs(study: ScalingStudy) -> list[ScalingRun]:
    """Returns the runs of a study: every point by every arm with the first seed, then the next.

    Runs whose configs are equal are one.

    Raises:
      UserError: names or seeds are not distinct, a config is invalid, some points have a budget and
        some none, the held-out point is unknown or not that of the most compute, or the others are
        too few for a fit.
    """
    check_types(study, 'study: ')
    for kind, items in (('point', study.points), ('arm', study.arms)):
        names = [item.name for item in items]
        for name in names:
            check_name(name, f'name of a{"n" * (kind == "arm")} {kind}')
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UserError(f'{repeated[0]!r} names two {kind}s', where=f'{kind}s of the study')
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        raise UserError(f'seeds must be distinct, got {list(study.seeds)}', where='study')
    without = [point.name for point in study.points if not point.budget]
    if without and len(without) < len(study.points):
        raise UserError(f'{without[0]!r} has no budget and others have', where=_POINTS)
    _check_gain(study)
    base = load_config(study.config, RunConfig)
    runs: dict[str, ScalingRun] = {}
    sizes: dict[str, Size] = {}
    for seed in study.seeds:
        for point in study.points:
            for arm in study.arms or (Arm(''),):
                planned = _plan_run(study, base, point, arm, seed, sizes)
                runs.setdefault(planned.run.hash, planned)
    _check_sizes(study, list(runs.values()))
    return list(runs.values())


def _plan_run(
    study: ScalingStudy,
    base: RunConfig,
    point: ScalingPoint,
    arm: Arm,
    seed: int,
    sizes: dict[str, Size],
) -> ScalingRun:
    """Returns a run; `sizes` holds those of the points so far, which arms and seeds share."""
    if shared := sorted(point.overrides.keys() & arm.overrides.keys()):
        raise UserError(
            f'the point {point.name!r} and the arm {arm.name!r} both change {shared[0]}',
            where='study',
            fix='change it in one',
        )
    overrides = {**study.overrides, **point.overrides, **arm.overrides, 'seed': seed}
    overrides |= {
        'evaluation.evaluators': 'loss',
        'evaluation.limit': study.validation_limit,
        'evaluation.interval': with_overrides(base, overrides).steps,
    }
    config = with_overrides(base, overrides)
    size = sizes.setdefault(point.name, sizes.get(point.name) or sizing.model_size(config))
    folder = '-'.join(filter(None, (point.name, arm.name, f's{seed}')))
    run = Point(arm.name, seed, config, overrides, f'points/{folder}')
    return ScalingRun(point.name, run, point.budget, size)


def _check_gain(study: ScalingStudy) -> None:
    if study.gain and not study.gain_arms:
        arms = ', '.join(arm.name for arm in study.arms)
        raise UserError(
            f'{study.gain!r} is not ARM-ARM', where='gain of the study', fix=f'arms: {arms}'
        )
    if not study.held_out:
        return
    if study.held_out not in [point.name for point in study.points]:
        raise UserError(f'no point {study.held_out!r}', where=_HELD_OUT)
    if study.arms and not study.gain:
        raise UserError('with arms it is the gain that is forecast', where=_HELD_OUT, fix='name it')


def _check_sizes(study: ScalingStudy, runs: Sequence[ScalingRun]) -> None:
    """Raises UserError where a fit cannot be made, or the held-out point is not the largest."""
    others, held_out = split_runs(study, runs)
    if study.held_out and not held_out:
        raise UserError(f'{study.held_out!r} has the config of another point', where=_HELD_OUT)
    if held_out and others:
        largest = max(others, key=lambda run: run.flops)
        if largest.flops >= held_out[0].flops:
            raise UserError(
                f'{largest.name!r} takes as much compute as {study.held_out!r}',
                where=_HELD_OUT,
                fix='hold out the point of the most compute',
            )
    reason = 'none'
    if others and study.arms:
        scales = ([run.size.params for run in others], [run.tokens for run in others])
        values = max(len(set(scale)) for scale in scales)
        fewest = saturating.FEWEST_VALUES
        reason = '' if values >= fewest else f'{values} sizes or numbers of tokens, not {fewest}'
    elif others:
        rows = [run.row(run.tokens, {'loss': 1.0}) for run in others]
        reason = losses.too_few(points_lib.loss_points(fit_rows(rows, 'study'), 'study'))
    if reason:
        besides = ' without the one held out' if held_out else ''
        raise UserError(f'too few{besides}: {reason}', where=_POINTS, fix='add points or seeds')


def split_runs(
    study: ScalingStudy, runs: Sequence[ScalingRun]
) -> tuple[list[ScalingRun], list[ScalingRun]]:
    """Returns the runs that are fitted first, and those of the point that is held out."""
    others = [run for run in runs if run.name != study.held_out]
    return others, [run for run in runs if run.name == study.held_out]


def fit_rows(rows: Sequence[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Returns rows of `points.csv` as `points.read_rows` returns them from that file."""
    return [
        {**row, 'seed': str(row['seed']), 'where': f'{where}:{line}'}
        for line, row in enumerate(rows, 2)
    ]


def check_data(study: ScalingStudy, runs: Sequence[ScalingRun]) -> None:
    """Checks that no run sees a record twice, and that the splits can be measured.

    The records are rendered and packed as `train` does it, which its cache keeps.

    Raises:
      UserError: a run has more steps than an epoch, or the records cannot be trained on or scored.
    """
    epochs: dict[str, int] = {}
    for planned in runs:
        config = planned.run.config
        values, model = config.to_dict(), config.model
        parts = [values[name] for name in ('data', 'arm', 'behaviors')]
        # Sizes of the model and seeds change no number of steps.
        key = json_digest([*parts, model.base, model.tokenizer])
        if key not in epochs:
            source = config.data.source
            sources.load_records(source, 'validation')
            if study.arms:
                eval_records.scorable(sources.load_records(source, 'test'), source)
            spec = setup.read_base(config)
            data = pipeline.training_examples(
                config, spec.tokenizer, spec.behaviors, spec.network.arch.max_positions
            )
            epochs[key] = data.plan.steps_per_epoch
        if config.steps > epochs[key]:
            raise UserError(
                f'{planned.name!r} trains for {config.steps} steps, and an epoch of '
                f'{config.data.source} has {epochs[key]}',
                where=_POINTS,
                fix='name a larger source or fewer tokens',
            )

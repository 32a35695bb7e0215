"""Ladders of sizes: models of one form from small to large, and the points of a study on them.

A rung is a value of `model.shape`, so a config override is the whole model. The learning rate of a
point follows from that of the base config, which is taken as right for its own width and tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from bsft_jax.config import RunConfig
from bsft_jax.config.shape import Shape
from bsft_jax.errors import UserError
from bsft_jax.models.architecture import Architecture
from bsft_jax.planning import compile_plan
from bsft_jax.studies import sizing
from bsft_jax.studies.scaling_study import ScalingPoint
from bsft_jax.studies.sizing import Size
from bsft_jax.studies.study import with_overrides

# Exponent of the token horizon that Bjorck et al. 2024 (arXiv 2409.19913) fit to models of several
# sizes: the best learning rate falls as D^-0.32.
HORIZON_EXPONENT = 0.32
# A factor in the ratio of width to depth counts as much as its fourth root in the size.
_RATIO_WEIGHT = 0.25
# A rung may be off its target by this factor, and a budget by this share.
_MAX_OFF = 1.25
_MAX_ROUNDING = 0.05
_MLP_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Form:
    """Describes what the rungs of a ladder share.

    Attributes:
      head_dim: width of an attention head; the width of a model is a multiple of it.
      aspect: width over depth that is aimed at.
      mlp_ratio: width of the MLP over that of the model, rounded to a multiple of 8.
      heads_per_kv: query heads for each key/value head, or the next smaller divisor of the heads.
    """

    head_dim: int = 32
    aspect: float = 32.0
    mlp_ratio: float = 3.0
    heads_per_kv: int = 2

    def shape(self, heads: int, layers: int) -> Shape:
        """Returns the shape of a number of heads and layers."""
        width = heads * self.head_dim
        groups = max(d for d in range(1, self.heads_per_kv + 1) if heads % d == 0)
        mlp = _MLP_MULTIPLE * max(round(self.mlp_ratio * width / _MLP_MULTIPLE), 1)
        return Shape(width, layers, heads, heads // groups, mlp)


@dataclasses.dataclass(frozen=True)
class Rung:
    """Holds one size of a ladder.

    Attributes:
      shape: the value of `model.shape`.
      size: parameters and FLOPs, exact.
    """

    shape: Shape
    size: Size

    @property
    def name(self) -> str:
        """Returns a name such as `n98.4k`, by the parameters outside of the embedding."""
        return f'n{short_number(self.size.non_embedding)}'


def make_ladder(
    base: RunConfig, targets: Sequence[float], form: Form | None = None
) -> tuple[Rung, ...]:
    """Returns the models of a form whose sizes are nearest to the targets, in ascending order.

    Of all numbers of heads and layers the one is taken whose number of non-embedding parameters is
    nearest to the target on a log scale, plus a quarter of the distance of width over depth from
    `form.aspect`. Random weights keep the variance of what a layer computes: their deviation is the
    base's times sqrt(width of the base / width), the rule of µP for hidden matrices (Yang et al.
    2022, arXiv 2203.03466, table 8). Targets with the same nearest model give one rung.

    Args:
      base: config whose base model gives family, vocabulary and positions.
      targets: numbers of parameters outside of the embedding table and the LM head.
      form: what the models share.

    Raises:
      UserError: no model is within a factor of 1.25 of a target, or the base cannot be read.
    """
    form = form or Form()
    arch = compile_plan.planned_network(base).arch
    rungs: dict[str, Rung] = {}
    for target in sorted(targets):
        shape = _nearest(arch, form, target)
        std = arch.init_std * math.sqrt(arch.embed_dim / shape.width)
        shape = dataclasses.replace(shape, std=float(f'{std:.4g}'))
        config = with_overrides(base, _model_overrides(shape))
        rungs.setdefault(str(shape), Rung(shape, sizing.model_size(config)))
    return tuple(rungs.values())


def _model_overrides(shape: Shape) -> dict[str, str]:
    return {'model.init': 'random', 'model.shape': str(shape)}


def _nearest(arch: Architecture, form: Form, target: float) -> Shape:
    best: tuple[float, float, Shape] | None = None
    for shape, count in _candidates(arch, form, target):
        off = abs(math.log(count / target))
        ratio = abs(math.log(shape.width / shape.layers / form.aspect))
        score = off + _RATIO_WEIGHT * ratio
        if best is None or score < best[0]:
            best = score, off, shape
    if best is None or best[1] > math.log(_MAX_OFF):
        raise UserError(
            f'no model of {form.head_dim}-wide heads and width/depth near {form.aspect:g} has '
            f'about {target:g} non-embedding parameters',
            where='ladder',
            fix='change the target, head_dim or aspect',
        )
    return best[2]


def _candidates(arch: Architecture, form: Form, target: float) -> Iterator[tuple[Shape, int]]:
    """Yields shapes of up to four times the target, each with its number of parameters."""
    heads = 0
    while True:
        heads, layers = heads + 1, 0
        while True:
            layers += 1
            shape = form.shape(heads, layers)
            sized = dataclasses.replace(
                arch,
                embed_dim=shape.width,
                num_layers=layers,
                num_heads=heads,
                num_kv_heads=shape.kv_heads,
                head_dim=form.head_dim,
                mlp_dim=shape.mlp,
            )
            count = sized.parameters - sized.embedding_parameters
            if count > 4 * target:
                break
            yield shape, count
        if layers == 1:
            return


def transfer_rate(
    rate: float,
    *,
    width: int,
    base_width: int,
    tokens: float,
    base_tokens: float,
    horizon_exponent: float = HORIZON_EXPONENT,
) -> float:
    """Returns rate · (base_width / width) · (tokens / base_tokens)^-horizon_exponent.

    The first factor is Adam's rule of µP for hidden matrices (Yang et al. 2022, arXiv 2203.03466,
    table 8). The optimizer has one learning rate, so embeddings, norms and the LM head follow it
    too, which µP does not ask of them. The second factor is that of Bjorck et al. 2024 (arXiv
    2409.19913).
    """
    return rate * (base_width / width) * (tokens / base_tokens) ** -horizon_exponent


def make_point(
    base: RunConfig,
    rung: Rung,
    tokens: float,
    *,
    budget: str = '',
    horizon_exponent: float = HORIZON_EXPONENT,
) -> ScalingPoint:
    """Returns the training of a rung on a number of tokens, in whole steps.

    Warmup is the share of the schedule that it is in the base config.

    Args:
      base: the study's base config, whose learning rate belongs to its own width and tokens.
      rung: the size.
      tokens: how many to train on; the nearest whole number of steps is taken.
      budget: name of the compute budget.
      horizon_exponent: exponent of the tokens in the learning rate.

    Raises:
      UserError: whole steps are further than 5 % from `tokens`.
    """
    per_step = sizing.step_tokens(base)
    steps = round(tokens / per_step)
    if steps < 1 or abs(steps * per_step / tokens - 1) > _MAX_ROUNDING:
        raise UserError(
            f'{tokens:.4g} tokens are {tokens / per_step:.3g} steps of {per_step}, which cannot be '
            f'rounded to 5 %',
            where=f'point of {rung.name}',
            fix='name more tokens, or lower data.global_batch_rows',
        )
    rate = transfer_rate(
        base.optimizer.learning_rate,
        width=rung.shape.width,
        base_width=compile_plan.planned_network(base).arch.embed_dim,
        tokens=steps * per_step,
        base_tokens=sizing.planned_tokens(base),
        horizon_exponent=horizon_exponent,
    )
    warmup = base.optimizer.warmup_steps / base.optimizer.schedule_steps
    overrides = {
        **_model_overrides(rung.shape),
        **_schedule(steps, warmup),
        'optimizer.learning_rate': float(f'{rate:.4g}'),
    }
    label = f'c{budget}' if budget else f'd{short_number(steps * per_step)}'
    return ScalingPoint(f'{label}-{rung.name}', overrides, budget)


def data_points(base: RunConfig, steps: Sequence[int]) -> tuple[ScalingPoint, ...]:
    """Returns the base config's model on several numbers of steps, in ascending order.

    The learning rate stays; warmup is the share of the schedule that it is in the base config. All
    points read the same epoch, so that the data of one are those of the next and more.
    """
    warmup = base.optimizer.warmup_steps / base.optimizer.schedule_steps
    per_step = sizing.step_tokens(base)
    return tuple(
        ScalingPoint(f'd{short_number(count * per_step)}', _schedule(count, warmup))
        for count in sorted(steps)
    )


def _schedule(steps: int, warmup: float) -> dict[str, int]:
    return {
        'optimizer.schedule_steps': steps,
        'optimizer.warmup_steps': round(warmup * steps),
        'train.steps': 0,
    }


def token_points(
    base: RunConfig, rungs: Sequence[Rung], tokens: Sequence[float], **options
) -> tuple[ScalingPoint, ...]:
    """Returns every rung on every number of tokens, as `make_point` does; tokens ascend first."""
    return tuple(make_point(base, rung, d, **options) for d in sorted(tokens) for rung in rungs)


def iso_flop_points(
    base: RunConfig, rungs: Sequence[Rung], flops: Sequence[float], **options
) -> tuple[ScalingPoint, ...]:
    """Returns every rung at every compute C, on C / (FLOPs per token) tokens; budgets ascend first.

    The FLOPs are those of `sizing.model_size`. Raises UserError as `make_point` does.
    """
    return tuple(
        make_point(base, rung, c / rung.size.flops_per_token, budget=f'{c:.3g}', **options)
        for c in sorted(flops)
        for rung in rungs
    )


def short_number(value: float) -> str:
    """Returns a number with three digits and the letter of its thousands, such as `98.4k`."""
    for unit, letter in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
        if value >= 0.9995 * unit:
            return f'{float(f"{value / unit:.3g}"):g}{letter}'
    return f'{value:g}'

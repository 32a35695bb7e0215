"""AdamW with linear warmup, cosine decay and clipping by the global norm."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import optax

from bsft_jax.config import OptimizerConfig
from bsft_jax.pytrees import path_of

# Paths of parameters with weight decay; norm scales, biases, behavior rows and adapters have none.
DECAYED = r'(kernel|embed/table)$'
# Paths of the behavior rows, whose learning rate has a factor.
_BEHAVIOR_ROWS = r'behavior/'


def schedule(section: OptimizerConfig) -> optax.Schedule:
    """Returns the learning rate by update: a linear warmup to the peak, then a cosine decay.

    That of the behavior rows is `behavior_lr_factor` times as large.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if section.warmup_steps else section.learning_rate,
        peak_value=section.learning_rate,
        warmup_steps=section.warmup_steps,
        decay_steps=section.schedule_steps,
        end_value=section.learning_rate * section.end_lr_ratio,
    )


def make_optimizer(section: OptimizerConfig) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov and Hutter, arXiv 1711.05101) with clipping by the global norm."""

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: re.search(DECAYED, path_of(path)) is not None, params
        )

    adamw = optax.adamw(
        schedule(section),
        b1=section.b1,
        b2=section.b2,
        eps=section.eps,
        weight_decay=section.weight_decay,
        mask=decayed,
    )
    if section.moment_dtype != 'float32':
        adamw = _with_state_dtype(section.moment_dtype, adamw)
    transformations = [optax.clip_by_global_norm(section.clip_norm), adamw]
    if section.behavior_lr_factor != 1:
        transformations.append(_scale_behavior_rows(section.behavior_lr_factor))
    return optax.chain(*transformations)


def _scale_behavior_rows(factor: float) -> optax.GradientTransformation:
    """Returns a transformation that multiplies the updates of the behavior rows.

    They have no weight decay, so this is a factor of their learning rate.
    """

    def scale(path, update):
        return update * factor if re.match(_BEHAVIOR_ROWS, path_of(path)) else update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def _with_state_dtype(
    dtype: str, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Wraps `inner` so that its state is stored in `dtype` and computed with in float32."""

    def cast(state, dtype):
        return jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state
        )

    def update(gradients, state, params=None):
        updates, state = inner.update(gradients, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)

"""AdamW with linear warmup, cosine decay and clipping by the global norm."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import optax

from bsft_jax.config import OptimizerSection
from bsft_jax.trees import path_of

# Norm scales, biases, behavior rows and adapters are not pulled toward zero.
DECAYED = r'(kernel|embed/table)$'


def schedule(section: OptimizerSection) -> optax.Schedule:
    """Learning rate at an update: from 0 over `warmup_steps` to the peak, then a cosine to the end."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if section.warmup_steps else section.learning_rate,
        peak_value=section.learning_rate,
        warmup_steps=section.warmup_steps,
        decay_steps=section.schedule_steps,
        end_value=section.learning_rate * section.final_ratio,
    )


def make_optimizer(section: OptimizerSection) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over the trainable parameters."""

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
    if section.moments != 'float32':
        adamw = _held_in(section.moments, adamw)
    return optax.chain(optax.clip_by_global_norm(section.clip_norm), adamw)


def _held_in(dtype: str, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, whose state is held in a narrower dtype from step to step and computed with in float32."""

    def cast(state, dtype):
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)

    def update(gradients, state, params=None):
        updates, state = inner.update(gradients, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)

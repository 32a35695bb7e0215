"""The optimizers, with linear warmup, cosine decay and clipping by the global norm."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import optax

from bsft_jax.config import OptimizerConfig
from bsft_jax.pytrees import path_of
from bsft_jax.training import factored, muon

# Paths of parameters with weight decay; norm scales, biases, behavior rows and adapters have none.
DECAYED = r'(kernel|embed/table)$'
# Paths of the behavior rows, whose learning rate has a factor.
_BEHAVIOR_ROWS = r'behavior/'
# Paths of the kernels that Muon updates, stacked over layers: not the LM head's.
_MUON_KERNELS = r'(layers|rest)/.*/kernel$'
# The state of Muon that is no moment: the coefficients of its iteration.
_COEFFICIENTS = r'ns_coeffs$'


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
    """Returns the optimizer of a config, with clipping by the global norm in front of it."""
    optimizer = {'adamw': _adamw, 'muon': _muon, 'adafactor': _adafactor}[section.name](section)
    if section.moment_dtype != 'float32':
        optimizer = _with_state_dtype(section.moment_dtype, optimizer)
    transformations = [optax.clip_by_global_norm(section.clip_norm), optimizer]
    if section.behavior_lr_factor != 1:
        transformations.append(_scale_behavior_rows(section.behavior_lr_factor))
    return optax.chain(*transformations)


def _decayed(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(DECAYED, path_of(path)) is not None, params
    )


def _adamw(section: OptimizerConfig) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""
    return optax.adamw(
        schedule(section),
        b1=section.b1,
        b2=section.b2,
        eps=section.eps,
        weight_decay=section.weight_decay,
        mask=_decayed,
    )


def _muon(section: OptimizerConfig) -> optax.GradientTransformation:
    """Returns Muon for the kernels of the layers and AdamW for the other parameters.

    Jordan et al. (kellerjordan.github.io/posts/muon) leave tables, heads and vectors to AdamW, too.
    All kernels have weight decay.
    """

    def label(path, _):
        return 'muon' if re.match(_MUON_KERNELS, path_of(path)) else 'adamw'

    kernels = optax.chain(
        muon.scale_by_muon(),
        optax.add_decayed_weights(section.weight_decay),
        optax.scale_by_learning_rate(schedule(section)),
    )
    return optax.partition(
        {'muon': kernels, 'adamw': _adamw(section)},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def _adafactor(section: OptimizerConfig) -> optax.GradientTransformation:
    """Returns Adafactor (Shazeer and Stern, arXiv 1804.04235) as it is used for fine-tuning.

    It has no momentum, and its learning rate is the schedule's instead of one that is relative to
    the size of the weights.
    """
    return optax.chain(
        factored.scale_by_factored_rms(),
        optax.add_decayed_weights(section.weight_decay, mask=_decayed),
        optax.scale_by_learning_rate(schedule(section)),
    )


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
    """Wraps `inner` so that its moments are stored in `dtype` and computed with in float32."""

    def is_moment(path, x) -> bool:
        return jnp.issubdtype(x.dtype, jnp.floating) and not re.search(_COEFFICIENTS, path_of(path))

    def cast(state, dtype):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x.astype(dtype) if is_moment(path, x) else x, state
        )

    def update(gradients, state, params=None):
        updates, state = inner.update(gradients, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)

"""Tests the dtypes of linear maps and of their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bsft_jax.models import linear
from tests.tiny import assert_close


def test_the_output_is_in_the_dtype_of_activations():
    module = linear.Linear(
        8, 4, bias=True, std=0.5, dtype=jnp.bfloat16, rngs=nnx.Rngs(params=jax.random.key(0))
    )
    assert module(jnp.ones((1, 2, 8))).dtype == jnp.bfloat16
    assert module.kernel[...].dtype == jnp.float32


def test_the_gradient_of_a_bias_is_summed_in_float32():
    """Sums over 4,096 tokens, where a sum in bfloat16 is a percent off."""
    module = linear.Linear(
        8, 16, bias=True, std=0.1, dtype=jnp.bfloat16, rngs=nnx.Rngs(params=jax.random.key(0))
    )
    graph, state = nnx.split(module)
    x_BTI = jax.random.normal(jax.random.key(1), (1, 4096, 8), jnp.bfloat16)
    dy_BTO = (jax.random.normal(jax.random.key(2), (1, 4096, 16)) + 0.05).astype(jnp.bfloat16)
    gradients = jax.jit(
        lambda state: jax.vjp(lambda s: nnx.merge(graph, s)(x_BTI), state)[1](dy_BTO)[0]
    )(state)
    exact_O = np.asarray(dy_BTO, np.float64).sum((0, 1))
    assert_close(nnx.to_pure_dict(gradients)['bias'], exact_O, 1e-5)

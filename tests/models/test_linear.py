"""Linear maps: the dtype of what they give out."""

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.models import linear


def test_a_product_is_in_the_dtype_of_activations():
    module = linear.Linear(
        8, 4, bias=True, std=0.5, dtype=jnp.bfloat16, rngs=nnx.Rngs(params=jax.random.key(0))
    )
    assert module(jnp.ones((1, 2, 8))).dtype == jnp.bfloat16
    assert module.kernel[...].dtype == jnp.float32

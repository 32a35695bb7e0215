"""Linear maps: both forms of the kernel's gradient, and the dtype of a product."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from bsft_jax.models import linear
from tests.tiny import assert_close


@pytest.mark.parametrize('outputs', [3, 24], ids=['narrows', 'widens'])
def test_gradients_are_those_of_a_plain_product(outputs):
    x_BTI = jax.random.normal(jax.random.key(0), (2, 7, 8))
    kernel_IO = jax.random.normal(jax.random.key(1), (8, outputs))
    dy_BTO = jax.random.normal(jax.random.key(2), (2, 7, outputs))
    expected, pull = jax.vjp(lambda x, kernel: x @ kernel, x_BTI, kernel_IO)
    actual, own = jax.vjp(linear.product, x_BTI, kernel_IO)
    assert_close(actual, expected, 1e-6)
    for mine, theirs in zip(own(dy_BTO), pull(dy_BTO), strict=True):
        assert_close(mine, theirs, 1e-6)
    assert_close(linear._kernel_gradient_cpu(x_BTI, dy_BTO), linear._kernel_gradient(x_BTI, dy_BTO), 1e-6)


def test_the_form_for_a_cpu_is_used_on_a_cpu_alone():
    def lowered(platform):
        gradient = jax.grad(lambda kernel, x: linear.product(x, kernel).sum())
        shapes = jax.ShapeDtypeStruct((8, 3), jnp.float32), jax.ShapeDtypeStruct((2, 7, 8), jnp.float32)
        return jax.jit(gradient).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()

    assert 'optimization_barrier' in lowered('cpu')
    assert 'optimization_barrier' not in lowered('tpu')


def test_a_product_is_in_the_dtype_of_activations():
    module = linear.Linear(
        8, 4, bias=True, std=0.5, dtype=jnp.bfloat16, rngs=nnx.Rngs(params=jax.random.key(0))
    )
    assert module(jnp.ones((1, 2, 8))).dtype == jnp.bfloat16
    assert module.kernel[...].dtype == jnp.float32

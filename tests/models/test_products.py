"""Products: both forms of the kernel's gradient, its dtype, and the precision of float32."""

import re

import jax
import jax.numpy as jnp
import pytest

from bsft_jax.models import products
from tests.tiny import assert_close


@pytest.mark.parametrize('outputs', [3, 24], ids=['narrows', 'widens'])
def test_gradients_are_those_of_a_plain_product(outputs):
    x_BTI = jax.random.normal(jax.random.key(0), (2, 7, 8))
    kernel_IO = jax.random.normal(jax.random.key(1), (8, outputs))
    dy_BTO = jax.random.normal(jax.random.key(2), (2, 7, outputs))
    expected, pull = jax.vjp(lambda x, kernel: x @ kernel, x_BTI, kernel_IO)
    actual, own = jax.vjp(products.product, x_BTI, kernel_IO)
    assert_close(actual, expected, 1e-6)
    for mine, theirs in zip(own(dy_BTO), pull(dy_BTO), strict=True):
        assert_close(mine, theirs, 1e-6)
    assert_close(products._kernel_gradient_cpu(x_BTI, dy_BTO), products._kernel_gradient(x_BTI, dy_BTO), 1e-6)


def lowered(dtype, platform):
    gradient = jax.grad(lambda kernel, x: products.product(x, kernel, jnp.float32).sum(), argnums=(0, 1))
    shapes = jax.ShapeDtypeStruct((8, 3), jnp.float32), jax.ShapeDtypeStruct((2, 7, 8), dtype)
    return jax.jit(gradient).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def test_the_form_for_a_cpu_is_used_on_a_cpu_alone():
    assert 'optimization_barrier' in lowered(jnp.float32, 'cpu')
    assert 'optimization_barrier' not in lowered(jnp.float32, 'tpu')


def test_products_of_float32_are_in_float32_on_every_platform():
    for dtype, rounded in ((jnp.float32, False), (jnp.bfloat16, True)):
        dots = [line for line in lowered(dtype, 'tpu').splitlines() if 'dot_general' in line]
        assert len(dots) == 2 and all(('HIGHEST' in dot) != rounded for dot in dots)


def test_a_kernels_gradient_is_not_rounded_to_the_dtype_of_activations():
    x_BTI = jax.random.normal(jax.random.key(0), (4, 512, 8)).astype(jnp.bfloat16)
    dy_BTO = jax.random.normal(jax.random.key(1), (4, 512, 3)).astype(jnp.bfloat16)
    _, pull = jax.vjp(products.product, x_BTI, jnp.ones((8, 3)))
    dx_BTI, dkernel_IO = pull(dy_BTO)
    assert dx_BTI.dtype == jnp.bfloat16 and dkernel_IO.dtype == jnp.float32
    exact_IO = jnp.einsum('BTI,BTO->IO', x_BTI.astype(jnp.float32), dy_BTO.astype(jnp.float32))
    assert_close(dkernel_IO, exact_IO, 1e-6)


def test_a_cpu_rounds_to_bfloat16_behind_the_product():
    def dots(platform):
        args = [jax.ShapeDtypeStruct((2, 32, 64), jnp.bfloat16), jax.ShapeDtypeStruct((64, 32), jnp.float32)]
        text = jax.jit(products.product).trace(*args).lower(lowering_platforms=(platform,)).as_text()
        return [line.split('->')[1].strip() for line in text.splitlines() if 'dot_general' in line]

    assert dots('cpu') == ['tensor<2x32x32xf32>'] and dots('tpu') == ['tensor<2x32x32xbf16>']


def test_a_cpu_has_a_kernel_for_every_product_of_a_layer_in_bfloat16():
    """What XLA has none for it converts to float32 before."""

    def loss(kernel_IO, x_BTI):
        return jnp.sin(products.product(jnp.cos(x_BTI), kernel_IO)).astype(jnp.float32).sum()

    for outputs in (32, 128):
        shapes = (64, outputs), (2, 128, 64)
        args = [
            jax.ShapeDtypeStruct(x, dtype)
            for x, dtype in zip(shapes, (jnp.float32, jnp.bfloat16), strict=True)
        ]
        text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile().as_text()
        dtypes = dict(re.findall(r'%(\S+) = (\w+)\[', text))
        factors_of = re.findall(r' dot\(%(\S+), %([^\s)]+)\)', text)
        assert len(factors_of) == 3
        assert {dtypes[name] for names in factors_of for name in names} == {'bf16'}, text


SIZES = {'R': 6, 'S': 10, 'H': 4}


def factors(spec, dtype=jnp.float32):
    left, right, out = (
        jnp.asarray(jax.random.normal(jax.random.key(i), (2, 3, *(SIZES[axis] for axis in axes[2:]))), dtype)
        for i, axes in enumerate((*spec.split('->')[0].split(','), spec.split('->')[1]))
    )
    return left, right, out


@pytest.mark.parametrize('spec', [products.SCORES, products.VALUES])
def test_gradients_of_attention_are_those_of_plain_products(spec):
    left, right, d = factors(spec)
    expected, pull = jax.vjp(lambda *x: jnp.einsum(spec, *x), left, right)
    actual, own = jax.vjp(lambda *x: products.attended(spec, *x), left, right)
    assert_close(actual, expected, 1e-6)
    for mine, theirs in zip(own(d), pull(d), strict=True):
        assert_close(mine, theirs, 1e-6)
    left, right, d = factors(spec, jnp.bfloat16)
    actual, own = jax.vjp(lambda *x: products.attended(spec, *x, jnp.float32), left, right)
    assert actual.dtype == jnp.float32
    assert [x.dtype for x in own(d.astype(jnp.float32))] == [jnp.bfloat16] * 2


def test_what_a_cpu_turns_around_is_made_before():
    """Else one loop does both, with strides: XLA's own barriers are gone when it fuses."""
    gradient = jax.grad(lambda kernel, x: jnp.sin(products.product(jnp.cos(x) * x, kernel)).sum())
    shapes = jax.ShapeDtypeStruct((64, 128), jnp.float32), jax.ShapeDtypeStruct((2, 256, 64), jnp.float32)
    text = jax.jit(gradient).lower(*shapes).compile().as_text()
    assert ' call(' in text and 'transpose_copy_fusion' not in text

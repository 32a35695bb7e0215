"""Tests matmuls: gradients, dtypes, precision, and the forms for CPUs."""

import re

import jax
import jax.numpy as jnp
import pytest

from bsft_jax.ops import cpu, matmul
from tests.tiny import assert_close


@pytest.mark.parametrize('outputs', [3, 24], ids=['narrows', 'widens'])
def test_gradients_are_those_of_a_plain_matmul(outputs):
    x_BTI = jax.random.normal(jax.random.key(0), (2, 7, 8))
    kernel_IO = jax.random.normal(jax.random.key(1), (8, outputs))
    dy_BTO = jax.random.normal(jax.random.key(2), (2, 7, outputs))
    expected, pull = jax.vjp(lambda x, kernel: x @ kernel, x_BTI, kernel_IO)
    actual, own_pull = jax.vjp(matmul.linear_matmul, x_BTI, kernel_IO)
    assert_close(actual, expected, 1e-6)
    for gradient, reference in zip(own_pull(dy_BTO), pull(dy_BTO), strict=True):
        assert_close(gradient, reference, 1e-6)
    assert_close(
        cpu.kernel_gradient(x_BTI, dy_BTO), matmul.plain_kernel_gradient(x_BTI, dy_BTO), 1e-6
    )


def lowered(dtype, platform):
    gradient = jax.grad(
        lambda kernel, x: matmul.linear_matmul(x, kernel, jnp.float32).sum(), argnums=(0, 1)
    )
    shapes = jax.ShapeDtypeStruct((8, 3), jnp.float32), jax.ShapeDtypeStruct((2, 7, 8), dtype)
    return jax.jit(gradient).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def test_the_form_for_cpus_is_used_on_cpus_only():
    assert 'optimization_barrier' in lowered(jnp.float32, 'cpu')
    assert 'optimization_barrier' not in lowered(jnp.float32, 'tpu')


def test_float32_matmuls_are_in_float32_on_every_platform():
    for dtype, rounded in ((jnp.float32, False), (jnp.bfloat16, True)):
        dots = [line for line in lowered(dtype, 'tpu').splitlines() if 'dot_general' in line]
        assert len(dots) == 2 and all(('HIGHEST' in dot) != rounded for dot in dots)


def test_a_kernel_gradient_is_not_rounded_to_the_dtype_of_activations():
    x_BTI = jax.random.normal(jax.random.key(0), (4, 512, 8)).astype(jnp.bfloat16)
    dy_BTO = jax.random.normal(jax.random.key(1), (4, 512, 3)).astype(jnp.bfloat16)
    _, pull = jax.vjp(matmul.linear_matmul, x_BTI, jnp.ones((8, 3)))
    dx_BTI, dkernel_IO = pull(dy_BTO)
    assert dx_BTI.dtype == jnp.bfloat16 and dkernel_IO.dtype == jnp.float32
    exact_IO = jnp.einsum('BTI,BTO->IO', x_BTI.astype(jnp.float32), dy_BTO.astype(jnp.float32))
    assert_close(dkernel_IO, exact_IO, 1e-6)


def test_a_cpu_rounds_to_bfloat16_after_the_matmul():
    def dots(platform):
        args = [
            jax.ShapeDtypeStruct((2, 32, 64), jnp.bfloat16),
            jax.ShapeDtypeStruct((64, 32), jnp.float32),
        ]
        text = (
            jax.jit(matmul.linear_matmul)
            .trace(*args)
            .lower(lowering_platforms=(platform,))
            .as_text()
        )
        return [line.split('->')[1].strip() for line in text.splitlines() if 'dot_general' in line]

    assert dots('cpu') == ['tensor<2x32x32xf32>'] and dots('tpu') == ['tensor<2x32x32xbf16>']


def test_a_cpu_has_a_kernel_for_every_bfloat16_matmul_of_a_layer():
    """Looks at the operands: XLA converts them to float32 where it has no kernel."""

    def loss(kernel_IO, x_BTI):
        return jnp.sin(matmul.linear_matmul(jnp.cos(x_BTI), kernel_IO)).astype(jnp.float32).sum()

    for outputs in (32, 128):
        shapes = (64, outputs), (2, 128, 64)
        args = [
            jax.ShapeDtypeStruct(x, dtype)
            for x, dtype in zip(shapes, (jnp.float32, jnp.bfloat16), strict=True)
        ]
        text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile().as_text()
        dtypes = dict(re.findall(r'%(\S+) = (\w+)\[', text))
        operands_of_dots = re.findall(r' dot\(%(\S+), %([^\s)]+)\)', text)
        assert len(operands_of_dots) == 3
        assert {dtypes[name] for names in operands_of_dots for name in names} == {'bf16'}, text


SIZES = {'Q': 6, 'S': 10, 'H': 4}


def operands(spec, dtype=jnp.float32):
    left, right, out = (
        jnp.asarray(
            jax.random.normal(jax.random.key(i), (2, 3, *(SIZES[axis] for axis in axes[2:]))), dtype
        )
        for i, axes in enumerate((*spec.split('->')[0].split(','), spec.split('->')[1]))
    )
    return left, right, out


@pytest.mark.parametrize('spec', [matmul.SCORES, matmul.VALUES])
def test_gradients_of_attention_are_those_of_plain_matmuls(spec):
    left, right, d = operands(spec)
    expected, pull = jax.vjp(lambda *x: jnp.einsum(spec, *x), left, right)
    actual, own_pull = jax.vjp(lambda *x: matmul.attention_matmul(spec, *x), left, right)
    assert_close(actual, expected, 1e-6)
    for gradient, reference in zip(own_pull(d), pull(d), strict=True):
        assert_close(gradient, reference, 1e-6)
    left, right, d = operands(spec, jnp.bfloat16)
    actual, own_pull = jax.vjp(
        lambda *x: matmul.attention_matmul(spec, *x, jnp.float32), left, right
    )
    assert actual.dtype == jnp.float32
    assert [x.dtype for x in own_pull(d.astype(jnp.float32))] == [jnp.bfloat16] * 2


def test_a_cpu_computes_an_operand_before_it_is_transposed():
    """Looks for the call that fusion keeps apart: fused, one loop would do both, with strides."""
    gradient = jax.grad(
        lambda kernel, x: jnp.sin(matmul.linear_matmul(jnp.cos(x) * x, kernel)).sum()
    )
    shapes = (
        jax.ShapeDtypeStruct((64, 128), jnp.float32),
        jax.ShapeDtypeStruct((2, 256, 64), jnp.float32),
    )
    text = jax.jit(gradient).lower(*shapes).compile().as_text()
    assert ' call(' in text and 'transpose_copy_fusion' not in text

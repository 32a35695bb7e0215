"""Everything that exists for CPUs only: alternative forms of operations, and limits.

Each alternative computes what the plain form at its call site computes, in an order that XLA's CPU
compiler handles well. `docs/performance.md` has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh

from bsft_jax.ops.precision import einsum

# A scan spends a tenth of a training step on stacking what the backward pass reads.
MAX_UNROLLED_LAYERS = 16
# Logits in one tile of the loss: with this many columns, more rows make a matmul no faster.
MAX_TILE_LOGITS = 2**25
# Columns of the LM head's kernel gradient per update, so that no second [D, V] buffer is alive.
COLUMN_CHUNK = 2**13


def choose(default: Callable, on_cpu: Callable, *args):
    """Returns `on_cpu(*args)` where the program is compiled for a CPU, else `default(*args)`."""
    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=default)


def should_unroll(num_layers: int, mesh: Mesh) -> bool:
    """Returns whether layers are compiled one by one: on a single CPU device, if they are few."""
    single_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'
    return single_cpu and num_layers <= MAX_UNROLLED_LAYERS


def einsum_then_round(spec: str, x: jax.Array, y: jax.Array, dtype) -> jax.Array:
    """Returns the einsum in `dtype`, accumulated in float32 and rounded afterwards.

    XLA's bfloat16 kernels for CPUs (AMX) return float32 only. For any other result type XLA would
    convert the inputs to float32 first.
    """
    return einsum(spec, x, y, jnp.float32).astype(dtype)


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns `xᵀ dy` [I, O] of [..., I] and [..., O], summed over tokens in float32.

    XLA's CPU matmul is fastest with few rows in its result, and with its left side transposed
    beforehand.
    """
    x_MI, dy_MO = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])

    def transpose_first(left_MI, right_MO):
        return einsum('IM,MO->IO', cpu_transpose(left_MI), right_MO, jnp.float32)

    if dy.shape[-1] < x.shape[-1]:
        # The barrier keeps XLA from swapping the operands back.
        return jax.lax.optimization_barrier(transpose_first(dy_MO, x_MI)).T
    return transpose_first(x_MI, dy_MO)


def attention_matmul_transposed(x_BKQS: jax.Array, y_BKQH: jax.Array, dtype=None) -> jax.Array:
    """Returns `xᵀ y` [B, K, S, H] in `dtype` (default: that of the inputs).

    XLA's CPU matmul runs on a single thread if it contracts the second-to-last dimension of `x`.
    """
    dtype = jnp.dtype(dtype or x_BKQS.dtype)
    x_BKSQ = cpu_transpose(x_BKQS)
    if dtype == jnp.bfloat16:
        return einsum_then_round('BKSQ,BKQH->BKSH', x_BKSQ, y_BKQH, dtype)
    return einsum('BKSQ,BKQH->BKSH', x_BKSQ, y_BKQH, dtype)


def cpu_transpose(x: jax.Array) -> jax.Array:
    """Returns `x` with its last two dimensions swapped, at the speed of memory.

    The transpose is kept out of fusion: fused, XLA reads the input with strides, five times slower.
    bfloat16 is transposed in two halves, so that XLA does not recognize the following matmul as one
    of a transposed array: it has no bfloat16 kernel for that and would convert it to float32.
    """
    halves = 2 if x.dtype == jnp.bfloat16 and x.shape[-1] % 2 == 0 else 1
    with set_xla_metadata(inlineable='false'):
        return jnp.concatenate([_swap_last_two(half) for half in jnp.split(x, halves, -1)], -2)


@jax.jit
def _swap_last_two(x):
    return jnp.swapaxes(x, -1, -2)


def materialize(*tables_BT1h: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the tables unchanged, as results of matmuls with the identity.

    XLA's CPU compiler does not fuse a matmul into its consumers, so the cosines and sines are
    computed once and not again in every rotation.
    """
    return tuple(
        jnp.einsum('BTNh,hk->BTNk', table, jnp.eye(table.shape[-1]), precision='highest')
        for table in tables_BT1h
    )

"""The decoder: one NNX module for all dense families, layers stacked and scanned."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.models import attention as attention_lib
from bsft_jax.models import behavior_rows
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.attention import AttentionMask, KVView, Layout
from bsft_jax.models.linear import Linear
from bsft_jax.parallel.sharding import constrain

BATCH = ('data', 'fsdp')
RESIDUAL_INIT = 0.01  # of `init_std`, for what is added to the residual stream: tokens keep their identity


class RMSNorm(nnx.Module):
    """x · scale / sqrt(mean(x²) + eps), normalised in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (self.scale[...] * wide).astype(x.dtype)


class Attention(nnx.Module):
    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        self.head_width = arch.head_width
        q_width, kv_width = arch.heads * arch.head_width, arch.kv_heads * arch.head_width
        make = functools.partial(Linear, std=arch.init_std, dtype=dtype, rngs=rngs)
        self.q = make(arch.width, q_width, bias=arch.qkv_bias)
        self.k = make(arch.width, kv_width, bias=arch.qkv_bias)
        self.v = make(arch.width, kv_width, bias=arch.qkv_bias)
        self.o = make(q_width, arch.width, bias=arch.output_bias, std=RESIDUAL_INIT * arch.init_std)

    def __call__(self, x_BTD, angles, mask_BTS, view_kv):
        B, T, _ = x_BTD.shape

        def heads(x):
            return constrain(x.reshape(B, T, -1, self.head_width), BATCH, None, 'tensor', None)

        q_BTNH = attention_lib.rotate(heads(self.q(x_BTD)), angles)
        k_BTKH = attention_lib.rotate(heads(self.k(x_BTD)), angles)
        v_BTKH = heads(self.v(x_BTD))
        keys, values = k_BTKH, v_BTKH
        if view_kv is not None:
            keys = jnp.concatenate([view_kv[0], keys], axis=1)
            values = jnp.concatenate([view_kv[1], values], axis=1)
        out_BTNH = attention_lib.attend(q_BTNH, keys, values, mask_BTS, ordered=view_kv is None)
        return self.o(out_BTNH.reshape(B, T, -1)), (k_BTKH, v_BTKH)


class Mlp(nnx.Module):
    """The gated feed-forward block (SwiGLU; Shazeer, arXiv 2002.05202)."""

    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        make = functools.partial(Linear, bias=arch.mlp_bias, std=arch.init_std, dtype=dtype, rngs=rngs)
        self.gate = make(arch.width, arch.ffn_width)
        self.up = make(arch.width, arch.ffn_width)
        self.down = make(arch.ffn_width, arch.width, std=RESIDUAL_INIT * arch.init_std)

    def __call__(self, x_BTD):
        gated_BTF = jax.nn.silu(self.gate(x_BTD)) * self.up(x_BTD)
        return self.down(constrain(gated_BTF, BATCH, None, 'tensor'))


class Layer(nnx.Module):
    def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(arch.width, arch.norm_eps)
        self.attention = Attention(arch, dtype, rngs)
        self.mlp_norm = RMSNorm(arch.width, arch.norm_eps)
        self.mlp = Mlp(arch, dtype, rngs)

    def __call__(self, x_BTD, angles, mask_BTS, view_kv):
        mixed_BTD, kv = self.attention(self.attention_norm(x_BTD), angles, mask_BTS, view_kv)
        x_BTD = constrain(x_BTD + mixed_BTD, BATCH, None, None)
        return constrain(x_BTD + self.mlp(self.mlp_norm(x_BTD)), BATCH, None, None), kv


class Embedding(nnx.Module):
    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        shape = arch.vocab_size, arch.width
        self.table = nnx.Param(arch.init_std * jax.random.normal(rngs.params(), shape))


class Head(nnx.Module):
    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        shape = arch.width, arch.vocab_size
        self.kernel = nnx.Param(arch.init_std * jax.random.normal(rngs.params(), shape))


class Rows(nnx.Module):
    """Behavior rows [n, D]: `input` replaces table rows, `output` head columns (one set when tied)."""

    def __init__(self, rows: int, width: int, tied: bool):
        self.input = nnx.Param(jnp.zeros((rows, width)))
        self.output = None if tied else nnx.Param(jnp.zeros((rows, width)))


class Decoder(nnx.Module):
    """Tokens in, final hidden states out; `models.head` turns hidden states into probabilities."""

    def __init__(self, arch: Architecture, behavior_ids: tuple[int, ...], dtype, rngs: nnx.Rngs):
        self.arch, self.behavior_ids, self.dtype = arch, behavior_ids, dtype
        self.embed = Embedding(arch, rngs)

        @nnx.split_rngs(splits=arch.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(layer_rngs: nnx.Rngs) -> Layer:
            return Layer(arch, dtype, layer_rngs)

        self.layers = stack(rngs)
        self.norm = RMSNorm(arch.width, arch.norm_eps)
        self.head = None if arch.tied else Head(arch, rngs)
        self.behavior = Rows(len(behavior_ids), arch.width, arch.tied) if behavior_ids else None

    def __call__(
        self, tokens_BT: jax.Array, layout: Layout, view: KVView | None = None
    ) -> tuple[jax.Array, KVView]:
        """Runs the decoder.

        Args:
          tokens_BT: token ids.
          layout: where those tokens stand.
          view: keys and values of earlier tokens that these may attend to as well.

        Returns:
          hidden_BTD behind the final norm, and the keys and values of these tokens.
        """
        hidden_BTD = behavior_rows.embed(self, tokens_BT).astype(self.dtype)
        hidden_BTD = constrain(hidden_BTD, BATCH, None, None)
        angles = attention_lib.rope_angles(layout.positions_BT, self.arch.head_width, self.arch.rope_theta)
        keys = layout if view is None else _concatenate(view.layout, layout)
        mask_BTS = AttentionMask(layout, keys).dense()
        view_kv = None if view is None else (view.k_LBSKH, view.v_LBSKH)

        @nnx.scan(in_axes=(0, nnx.Carry, None, None, None if view is None else 0), out_axes=(nnx.Carry, 0))
        def run(layer, hidden_BTD, angles, mask_BTS, view_kv):
            return layer(hidden_BTD, angles, mask_BTS, view_kv)

        hidden_BTD, (k_LBTKH, v_LBTKH) = run(self.layers, hidden_BTD, angles, mask_BTS, view_kv)
        return self.norm(hidden_BTD), KVView(k_LBTKH, v_LBTKH, layout)


def _concatenate(first: Layout, second: Layout) -> Layout:
    """Keys of `first` before keys of `second`; a missing branch or leaf stands for zeros."""

    def join(a, b):
        if a is None and b is None:
            return None
        a = jnp.zeros_like(first.segment_ids_BT) if a is None else a
        b = jnp.zeros_like(second.segment_ids_BT) if b is None else b
        return jnp.concatenate([a, b], axis=1)

    fields = [field.name for field in dataclasses.fields(Layout)]
    return Layout(*(join(getattr(first, name), getattr(second, name)) for name in fields))

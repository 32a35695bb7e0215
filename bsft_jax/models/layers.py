"""Layers of the decoder: norms, attention, the MLP, the embedding table and the LM head."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from bsft_jax.config import LINEAR_MAPS, ComputeConfig
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.linear import Linear
from bsft_jax.ops import rope
from bsft_jax.ops.attention import AttentionFn
from bsft_jax.ops.kv_cache import write_at
from bsft_jax.parallel.sharding import (
    BATCH_AXES,
    SEQUENCE_AXIS,
    activation_spec,
    constrain,
    num_shards,
    shard_map_current_mesh,
)

ACTIVATIONS = {'silu': jax.nn.silu, 'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True)}
# Scales `init_std` of maps whose output is added to the residual stream, so that layers start close
# to the identity.
RESIDUAL_INIT = 0.01


class RMSNorm(nnx.Module):
    """Computes x · (offset + scale) / sqrt(mean(x²) + eps) in float32.

    Zhang and Sennrich, arXiv 1910.07467; the offset is Gemma's.
    """

    def __init__(self, dim: int, arch: Architecture):
        self.scale = nnx.Param(jnp.full(dim, 1.0 - arch.norm_scale_offset))
        self.eps, self.offset = arch.norm_eps, arch.norm_scale_offset

    def __call__(self, x: jax.Array) -> jax.Array:
        def normalize(x, scale):
            x_float32 = x.astype(jnp.float32)
            mean_square = jnp.mean(x_float32 * x_float32, axis=-1, keepdims=True)
            x_float32 *= jax.lax.rsqrt(mean_square + self.eps)
            return ((scale.astype(jnp.float32) + self.offset) * x_float32).astype(x.dtype)

        # The backward pass keeps `x` alone, not its float32 form.
        return jax.checkpoint(normalize, prevent_cse=False)(x, self.scale[...])


def linear_factory(
    part: str, arch: Architecture, compute: ComputeConfig, rngs: nnx.Rngs
) -> Callable[..., Linear]:
    """Returns a function that makes the linear maps of one part of a layer.

    Args:
      part: `attention` or `mlp`; adapters are chosen by `part/name`.
      arch: sizes of the model.
      compute: dtypes and adapters.
      rngs: where initial values are drawn from.
    """

    def make(
        name: str, inputs: int, outputs: int, bias: bool, std: float = arch.init_std
    ) -> Linear:
        adapter = compute.lora if compute.lora and compute.lora.covers(f'{part}/{name}') else None
        return Linear(
            inputs,
            outputs,
            bias=bias,
            std=std,
            dtype=jnp.dtype(compute.dtype),
            rngs=rngs,
            base_dtype=compute.base_dtype,
            adapter=adapter,
        )

    return make


@dataclasses.dataclass
class LayerContext:
    """Holds RoPE tables and the attention function for one kind of layer.

    Contexts are built once per forward pass.

    Attributes:
      angles: cosines and sines of the rotary embedding.
      attend: the attention function.
      cache_index: where the layer writes its keys and values into the KV cache before attention
        reads them from it; None where it writes none.
    """

    angles: tuple[jax.Array, jax.Array]
    attend: AttentionFn
    cache_index: jax.Array | None


class Attention(nnx.Module):
    """Projects to rotated queries, keys and values, attends, and projects back."""

    def __init__(self, arch: Architecture, compute: ComputeConfig, rngs: nnx.Rngs):
        self.head_dim = arch.head_dim
        q_dim, kv_dim = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
        make = linear_factory('attention', arch, compute, rngs)
        self.q = make('q', arch.embed_dim, q_dim, arch.qkv_bias)
        self.k = make('k', arch.embed_dim, kv_dim, arch.qkv_bias)
        self.v = make('v', arch.embed_dim, kv_dim, arch.qkv_bias)
        self.o = make('o', q_dim, arch.embed_dim, arch.output_bias, RESIDUAL_INIT * arch.init_std)
        self.q_norm = RMSNorm(arch.head_dim, arch) if arch.qk_norm else None
        self.k_norm = RMSNorm(arch.head_dim, arch) if arch.qk_norm else None

    def __call__(self, x_BTD, context: LayerContext, cache_kv, keys):
        """Returns the output [B, T, D] and (keys, values).

        Args:
          x_BTD: normalized hidden states.
          context: the layer's kind.
          cache_kv: (k_BKSH, v_BKSH) of the KV cache; empty without one.
          keys: a dropout key (or None) for each of the maps q, k, v and o.

        Returns:
          The output and (k_BKTH, v_BKTH) of these tokens; with a `cache_index`, the whole cache
          with them in it.
        """
        B, T, _ = x_BTD.shape

        def split_heads(x, norm=None):
            x = x.reshape(B, T, -1, self.head_dim)
            x = constrain(x, BATCH_AXES, SEQUENCE_AXIS, 'tensor', None)
            return x if norm is None else norm(x)

        q_BTNH = rope.rotate(split_heads(self.q(x_BTD, keys[0]), self.q_norm), context.angles)
        k_BTKH = rope.rotate(split_heads(self.k(x_BTD, keys[1]), self.k_norm), context.angles)
        v_BTKH = split_heads(self.v(x_BTD, keys[2]))
        kv = jnp.swapaxes(k_BTKH, 1, 2), jnp.swapaxes(v_BTKH, 1, 2)
        if context.cache_index is None:
            out_BTNH = context.attend(q_BTNH, k_BTKH, v_BTKH, *cache_kv)
        else:
            kv = write_at(cache_kv, kv, context.cache_index, axis=-2)
            out_BTNH = context.attend(q_BTNH, *kv)
        return self.o(out_BTNH.reshape(B, T, -1), keys[3]), kv


class Mlp(nnx.Module):
    """Computes the gated feed-forward block (SwiGLU, GeGLU; Shazeer, arXiv 2002.05202)."""

    def __init__(self, arch: Architecture, compute: ComputeConfig, rngs: nnx.Rngs):
        make = linear_factory('mlp', arch, compute, rngs)
        residual_std = RESIDUAL_INIT * arch.init_std
        self.gate = make('gate', arch.embed_dim, arch.mlp_dim, arch.mlp_bias)
        self.up = make('up', arch.embed_dim, arch.mlp_dim, arch.mlp_bias)
        self.down = make('down', arch.mlp_dim, arch.embed_dim, arch.mlp_bias, residual_std)
        self.activation, self.unroll_layers = arch.activation, compute.unroll_layers

    def __call__(self, x_BTD, keys):
        # The backward pass keeps the two factors and recomputes what is between them. Outside of a
        # scan, common subexpression elimination would undo that.
        gated = jax.checkpoint(
            lambda gate, up: ACTIVATIONS[self.activation](gate) * up, prevent_cse=self.unroll_layers
        )
        gated_BTF = gated(self.gate(x_BTD, keys[0]), self.up(x_BTD, keys[1]))
        return self.down(constrain(gated_BTF, BATCH_AXES, SEQUENCE_AXIS, 'tensor'), keys[2])


class Layer(nnx.Module):
    """Adds attention and the MLP to the residual stream, each preceded by its norm."""

    def __init__(self, arch: Architecture, compute: ComputeConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(arch.embed_dim, arch)
        self.attention = Attention(arch, compute, rngs)
        self.attention_post_norm = RMSNorm(arch.embed_dim, arch) if arch.post_norms else None
        self.mlp_norm = RMSNorm(arch.embed_dim, arch)
        self.mlp = Mlp(arch, compute, rngs)
        self.mlp_post_norm = RMSNorm(arch.embed_dim, arch) if arch.post_norms else None

    def __call__(self, x_BTD, context: LayerContext, cache_kv=(), key=None):
        """Returns the hidden states and (keys, values), see `Attention`; `key` is for dropout."""
        keys = [None] * len(LINEAR_MAPS) if key is None else jax.random.split(key, len(LINEAR_MAPS))

        def add(x_BTD, update_BTD, post_norm):
            update_BTD = update_BTD if post_norm is None else post_norm(update_BTD)
            return constrain(x_BTD + update_BTD, BATCH_AXES, SEQUENCE_AXIS, None)

        attended_BTD, kv = self.attention(self.attention_norm(x_BTD), context, cache_kv, keys[:4])
        x_BTD = add(x_BTD, attended_BTD, self.attention_post_norm)
        return add(x_BTD, self.mlp(self.mlp_norm(x_BTD), keys[4:]), self.mlp_post_norm), kv


class Embedding(nnx.Module):
    """Holds the embedding table [V, D]."""

    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        shape = arch.vocab_size, arch.embed_dim
        self.table = nnx.Param(arch.init_std * jax.random.normal(rngs.params(), shape))

    def __call__(self, tokens_BT: jax.Array, dtype) -> jax.Array:
        """Returns the tokens' rows of the table in `dtype`; out-of-range ids give arbitrary rows.

        Where `fsdp` splits table and tokens, a device looks up its columns for the tokens of all
        devices and gets those of its own tokens back. The data moved is as large as the result, not
        as the table. Gradients go the same way.
        """
        table_VD = self.table[...]
        V, D = table_VD.shape
        is_split = num_shards(D, 'fsdp') > 1
        token_spec = is_split and activation_spec(tokens_BT.shape, BATCH_AXES, SEQUENCE_AXIS)
        if not is_split or 'fsdp' not in (token_spec[0] or ()):
            table_VD = constrain(table_VD, 'tensor', None)
            return jnp.take(table_VD, tokens_BT, axis=0, mode='clip').astype(dtype)

        # Lower-case letters are a device's shard.
        def look_up_shard(table_vd, tokens_bt):
            tokens_Bt = jax.lax.all_gather(tokens_bt, 'fsdp', axis=0, tiled=True)
            v = len(table_vd)
            index_Bt = tokens_Bt if v == V else tokens_Bt - jax.lax.axis_index('tensor') * v
            rows_Btd = jnp.take(table_vd, index_Bt, axis=0, mode='clip').astype(dtype)
            if v < V:
                # `tensor` splits the vocabulary too: one device has the row of a token.
                is_here_Bt = (index_Bt >= 0) & (index_Bt < v)
                rows_Btd = jax.lax.psum(jnp.where(is_here_Bt[..., None], rows_Btd, 0), 'tensor')
            return jax.lax.all_to_all(rows_Btd, 'fsdp', split_axis=0, concat_axis=2, tiled=True)

        in_specs = activation_spec((V, D), 'tensor', 'fsdp'), token_spec
        look_up = shard_map_current_mesh(look_up_shard, in_specs, P(*token_spec, None))
        return look_up(table_VD, tokens_BT)


class LMHead(nnx.Module):
    """Holds the kernel [D, V] of an untied LM head; `models.lm_head` computes with it."""

    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        shape = arch.embed_dim, arch.vocab_size
        self.kernel = nnx.Param(arch.init_std * jax.random.normal(rngs.params(), shape))

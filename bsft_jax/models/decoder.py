"""The decoder: one NNX module for all dense families, its layers stacked and scanned."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from bsft_jax.config import ComputeConfig
from bsft_jax.models import behavior_rows
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.layers import Embedding, Layer, LayerContext, LMHead, RMSNorm
from bsft_jax.ops import attention_dispatch, remat, rope
from bsft_jax.ops.attention import AttentionFn, AttentionMask, ScoreTransform, TokenLayout
from bsft_jax.ops.kv_cache import KVCache, attend_cache, write_at
from bsft_jax.parallel.sharding import BATCH_AXES, SEQUENCE_AXIS, constrain


class Decoder(nnx.Module):
    """Maps tokens to final hidden states; `models.lm_head` maps those to probabilities.

    Layers in whole periods are stacked and scanned, a period at a time, or unrolled (see
    `ComputeConfig`). A period is the repeating pattern of layer kinds, such as local, global
    in Gemma 2. The remainder after the last whole period (`rest`) is stacked and always unrolled.
    """

    def __init__(
        self,
        arch: Architecture,
        compute: ComputeConfig,
        behavior_ids: tuple[int, ...],
        rngs: nnx.Rngs,
    ):
        self.arch, self.compute, self.behavior_ids = arch, compute, behavior_ids
        self.dtype = jnp.dtype(compute.dtype)
        self.embed = Embedding(arch, rngs)

        def stack(num_layers: int) -> Layer | None:
            @nnx.split_rngs(splits=num_layers)
            @nnx.vmap(in_axes=0, out_axes=0)
            def make(layer_rngs: nnx.Rngs) -> Layer:
                return Layer(arch, compute, layer_rngs)

            return make(rngs) if num_layers else None

        self.layers, self.rest = stack(arch.stacked), stack(arch.num_layers - arch.stacked)
        self.norm = RMSNorm(arch.embed_dim, arch)
        self.lm_head = None if arch.tied else LMHead(arch, rngs)
        self.behavior = (
            behavior_rows.BehaviorRows(len(behavior_ids), arch.embed_dim, arch.tied)
            if behavior_ids
            else None
        )

    def __call__(
        self,
        tokens_BT: jax.Array,
        layout: TokenLayout,
        cache: KVCache | None = None,
        dropout_key: jax.Array | None = None,
        cache_index: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Runs the decoder.

        Args:
          tokens_BT: token ids.
          layout: positions and segments of those tokens.
          cache: keys and values of earlier tokens that these may attend to as well.
          dropout_key: in training, for the adapters' dropout.
          cache_index: first unwritten slot of the cache, where these tokens go; None to leave the
            cache as it is.

        Returns:
          hidden_BTD after the final norm, and the keys and values of these tokens; with a
          `cache_index`, the cache with them in it.
        """
        unroll_layers = self.compute.unroll_layers
        hidden_BTD = behavior_rows.embed_tokens(self, tokens_BT)
        hidden_BTD *= jnp.asarray(self.arch.embedding_scale, self.dtype)
        hidden_BTD = constrain(hidden_BTD, BATCH_AXES, SEQUENCE_AXIS, None)

        # Unrolled layers write K/V into the cache before attention reads it, so XLA updates in
        # place. In a scan the cache would be a carry and copied at every step; there it is written
        # afterwards.
        contexts = layer_contexts(
            self.arch,
            layout,
            None if cache is None else cache.layout,
            self.compute.attention,
            cache_index if unroll_layers else None,
        )

        # Arguments of each layer besides its parameters, stacked over layers.
        layer_args = {}
        if cache is not None:
            layer_args['cache_kv'] = cache.k_LBKSH, cache.v_LBKSH
        if dropout_key is not None:
            layer_args['key'] = jax.random.split(dropout_key, self.arch.num_layers)

        run_layers = self._run_unrolled if unroll_layers else self._run_scanned
        hidden_BTD, kv = run_layers(hidden_BTD, contexts, layer_args)
        if cache_index is not None:
            layout = write_at(cache.layout, layout, cache_index, axis=1)
            if not unroll_layers:
                kv = write_at(layer_args['cache_kv'], kv, cache_index, axis=-2)
        return self.norm(hidden_BTD), KVCache(*kv, layout)

    def _layer_group(self, layers: Layer, contexts: list[LayerContext]) -> Callable:
        """Returns a function that runs consecutive layers, beginning with the first of a period.

        It takes hidden_BTD, and lists over layers of their states and arguments; it returns
        hidden_BTD and a list of (keys, values).
        """
        graph, _ = nnx.split(layers)

        def run(hidden_BTD, states, layer_args):
            hidden_BTD, kvs = checkpoint_name(hidden_BTD, remat.LAYER_INPUT), []
            # The remainder has fewer layers than a period has contexts.
            for context, state, kwargs in zip(contexts, states, layer_args, strict=False):
                hidden_BTD, kv = nnx.merge(graph, state)(hidden_BTD, context, **kwargs)
                kvs.append(kv)
            return hidden_BTD, kvs

        return run

    def _run_scanned(self, hidden_BTD, contexts: list[LayerContext], layer_args: dict):
        """Runs all layers in a scan over periods; returns hidden states and (k_LBKTH, v_LBKTH)."""
        period, stacked = self.arch.period, self.arch.stacked

        def with_stacked_args(layer_group: Callable, num_layers: int) -> Callable:
            def run(hidden_BTD, state_and_args):
                by_layer = (_unstack(x, num_layers) for x in state_and_args)
                hidden_BTD, kvs = layer_group(hidden_BTD, *by_layer)
                return hidden_BTD, jax.tree.map(lambda *x: jnp.stack(x), *kvs)

            return run

        kvs = []
        if self.layers is not None:
            # Whole periods: [layers, ...] becomes [periods, period, ...].
            _, state = nnx.split(self.layers)
            by_period = jax.tree.map(
                lambda x: x.reshape(-1, period, *x.shape[1:]),
                (state, jax.tree.map(lambda x: x[:stacked], layer_args)),
            )
            run = with_stacked_args(self._layer_group(self.layers, contexts), period)
            run = remat.apply_remat(run, self.compute.remat, scanned=True)
            hidden_BTD, kv = jax.lax.scan(run, hidden_BTD, by_period)
            kvs.append(jax.tree.map(lambda x: x.reshape(stacked, *x.shape[2:]), kv))
        if self.rest is not None:
            _, state = nnx.split(self.rest)
            num_rest = self.arch.num_layers - stacked
            run = with_stacked_args(self._layer_group(self.rest, contexts), num_rest)
            run = remat.apply_remat(run, self.compute.remat, scanned=False)
            rest_args = jax.tree.map(lambda x: x[stacked:], layer_args)
            hidden_BTD, kv = run(hidden_BTD, (state, rest_args))
            kvs.append(kv)
        return hidden_BTD, jax.tree.map(lambda *x: jnp.concatenate(x), *kvs)

    def _run_unrolled(self, hidden_BTD, contexts: list[LayerContext], layer_args: dict):
        """Runs all layers one after the other in the program.

        Returns hidden states, and keys and values in tuples over layers.
        """
        kwargs_of_layers = [{} for _ in range(self.arch.num_layers)]
        for i, kwargs in enumerate(kwargs_of_layers):
            if 'cache_kv' in layer_args:
                kwargs['cache_kv'] = tuple(x[i] for x in layer_args['cache_kv'])
            if 'key' in layer_args:
                kwargs['key'] = layer_args['key'][i]

        kvs = []
        for layers in (self.layers, self.rest):
            if layers is None:
                continue
            group = self._layer_group(layers, contexts)
            run = remat.apply_remat(group, self.compute.remat, scanned=False)
            # With jit a period is traced once, and not once per repetition.
            run, (_, state) = jax.jit(run), nnx.split(layers)
            states = _unstack(state)
            for start in range(0, len(states), self.arch.period):
                period = states[start : start + self.arch.period]
                kwargs = kwargs_of_layers[len(kvs) : len(kvs) + len(period)]
                hidden_BTD, kv = run(hidden_BTD, period, kwargs)
                kvs += kv
        return hidden_BTD, tuple(zip(*kvs, strict=True))


def layer_contexts(
    arch: Architecture,
    layout: TokenLayout,
    cache_layout: TokenLayout | None,
    backend: str,
    cache_index: jax.Array | None,
) -> list[LayerContext]:
    """Returns a context per kind of layer; equal ropes and windows share one computation.

    Args:
      arch: the kinds of layers.
      layout: layout of the current tokens.
      cache_layout: layout of the KV cache; None without one.
      backend: the resolved attention backend.
      cache_index: where unrolled layers write keys and values into the cache; None where they
        write none.
    """
    transform = ScoreTransform(arch.score_scale, arch.attn_softcap)

    def make_attention(window: int) -> AttentionFn:
        if cache_index is not None:
            written = write_at(cache_layout, layout, cache_index, axis=1)
            return attend_cache(AttentionMask(layout, written, window), transform)
        own_mask = AttentionMask(layout, layout, window)
        prefix_mask = None
        if cache_layout is not None:
            prefix_mask = AttentionMask(layout, cache_layout, window)
        return attention_dispatch.make_attention_fn(own_mask, transform, backend, prefix_mask)

    angles = {k.rope: rope.angles(layout.positions_BT, arch.head_dim, k.rope) for k in arch.kinds}
    attention = {window: make_attention(window) for window in {k.window for k in arch.kinds}}
    return [LayerContext(angles[k.rope], attention[k.window], cache_index) for k in arch.kinds]


def _unstack(tree, num_layers: int = 0) -> list:
    """Returns a tree per layer of one whose leaves are stacked over layers, or lists already.

    The gradient of the split is one concatenation. `num_layers` is used only if the tree has
    no leaves.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, list))
    num_layers = len(leaves[0]) if leaves else num_layers

    def split(x):
        if isinstance(x, list):
            return x
        return [layer[0] for layer in jax.lax.split(x, (1,) * num_layers)]

    by_layer = zip(*map(split, leaves), strict=True) if leaves else [()] * num_layers
    return [jax.tree.unflatten(structure, layer_leaves) for layer_leaves in by_layer]

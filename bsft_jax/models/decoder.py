"""The decoder: one NNX module for all dense families, layers stacked and scanned."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from bsft_jax.config import LINEAR_MAPS
from bsft_jax.models import backends, behavior_rows, remat, rope
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.attention import Attend, AttentionMask, KVView, Layout, Scores, in_view, put
from bsft_jax.models.linear import Linear
from bsft_jax.models.lora import LoraSpec
from bsft_jax.parallel.sharding import ROWS, TOKENS, constrain

ACTIVATIONS = {'silu': jax.nn.silu, 'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True)}
RESIDUAL_INIT = 0.01  # of `init_std`, for what is added to the residual stream: tokens keep their identity


@dataclasses.dataclass(frozen=True)
class Form:
    """How a decoder is held and computed.

    `quantized` holds frozen kernels of linear maps as int8; `lora` says which maps have an adapter. `remat` names
    what a layer keeps for its backward pass, `attention` the resolved back end; layers are compiled `apart` or once.
    """

    quantized: bool = False
    lora: LoraSpec | None = None
    remat: str = 'none'
    attention: str = 'dense'
    apart: bool = False


class RMSNorm(nnx.Module):
    """x · (offset + scale) / sqrt(mean(x²) + eps), in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, arch: Architecture):
        self.scale = nnx.Param(jnp.full(width, 1.0 - arch.norm_offset))
        self.eps, self.offset = arch.norm_eps, arch.norm_offset

    def __call__(self, x: jax.Array) -> jax.Array:
        def normed(x, scale):
            wide = x.astype(jnp.float32)
            wide *= jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
            return ((scale.astype(jnp.float32) + self.offset) * wide).astype(x.dtype)

        return jax.checkpoint(normed, prevent_cse=False)(x, self.scale[...])  # keeps x alone


def _maker(part: str, arch: Architecture, form: Form, dtype, rngs: nnx.Rngs) -> Callable[..., Linear]:
    """Makes the linear maps of one part of a layer, by name and sizes."""

    def make(name: str, inputs: int, outputs: int, bias: bool, std: float = arch.init_std) -> Linear:
        adapter = form.lora if form.lora and form.lora.covers(f'{part}/{name}') else None
        return Linear(
            inputs, outputs, bias=bias, std=std, dtype=dtype, rngs=rngs, quantized=form.quantized, adapter=adapter
        )  # fmt: skip

    return make


class Attention(nnx.Module):
    def __init__(self, arch: Architecture, form: Form, dtype, rngs: nnx.Rngs):
        self.head_width = arch.head_width
        q_width, kv_width = arch.heads * arch.head_width, arch.kv_heads * arch.head_width
        make = _maker('attention', arch, form, dtype, rngs)
        self.q = make('q', arch.width, q_width, arch.qkv_bias)
        self.k = make('k', arch.width, kv_width, arch.qkv_bias)
        self.v = make('v', arch.width, kv_width, arch.qkv_bias)
        self.o = make('o', q_width, arch.width, arch.output_bias, RESIDUAL_INIT * arch.init_std)
        self.q_norm = RMSNorm(arch.head_width, arch) if arch.qk_norm else None
        self.k_norm = RMSNorm(arch.head_width, arch) if arch.qk_norm else None

    def __call__(self, x_BTD, place: Place, view_kv, keys):
        B, T, _ = x_BTD.shape

        def heads(x, norm=None):
            x = constrain(x.reshape(B, T, -1, self.head_width), ROWS, TOKENS, 'tensor', None)
            return x if norm is None else norm(x)

        q_BTNH = rope.rotate(heads(self.q(x_BTD, keys[0]), self.q_norm), place.angles)
        k_BTKH = rope.rotate(heads(self.k(x_BTD, keys[1]), self.k_norm), place.angles)
        v_BTKH = heads(self.v(x_BTD, keys[2]))
        kv = jnp.swapaxes(k_BTKH, 1, 2), jnp.swapaxes(v_BTKH, 1, 2)
        if place.slot is None:
            out_BTNH = place.attend(q_BTNH, k_BTKH, v_BTKH, *view_kv)
        else:
            kv = put(view_kv, kv, place.slot, axis=-2)
            out_BTNH = place.attend(q_BTNH, *kv)
        return self.o(out_BTNH.reshape(B, T, -1), keys[3]), kv


class Mlp(nnx.Module):
    """The gated feed-forward block (SwiGLU, GeGLU; Shazeer, arXiv 2002.05202)."""

    def __init__(self, arch: Architecture, form: Form, dtype, rngs: nnx.Rngs):
        make = _maker('mlp', arch, form, dtype, rngs)
        self.gate = make('gate', arch.width, arch.ffn_width, arch.mlp_bias)
        self.up = make('up', arch.width, arch.ffn_width, arch.mlp_bias)
        self.down = make('down', arch.ffn_width, arch.width, arch.mlp_bias, RESIDUAL_INIT * arch.init_std)
        self.activation, self.apart = arch.activation, form.apart

    def __call__(self, x_BTD, keys):
        # The backward pass keeps the two factors, and makes what is between them again. Outside of a scan XLA
        # would find it made already, and keep it.
        gated = jax.checkpoint(
            lambda gate, up: ACTIVATIONS[self.activation](gate) * up, prevent_cse=self.apart
        )
        gated_BTF = gated(self.gate(x_BTD, keys[0]), self.up(x_BTD, keys[1]))
        return self.down(constrain(gated_BTF, ROWS, TOKENS, 'tensor'), keys[2])


@dataclasses.dataclass
class Place:
    """What attention needs to know of a layer's kind, made once per call: angles, and the mask lowered.

    With a `slot` keys and values go there in the view, and attention reads them from it.
    """

    angles: tuple[jax.Array, jax.Array]
    attend: Attend
    slot: jax.Array | None


class Layer(nnx.Module):
    def __init__(self, arch: Architecture, form: Form, dtype, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(arch.width, arch)
        self.attention = Attention(arch, form, dtype, rngs)
        self.attention_post_norm = RMSNorm(arch.width, arch) if arch.post_norms else None
        self.mlp_norm = RMSNorm(arch.width, arch)
        self.mlp = Mlp(arch, form, dtype, rngs)
        self.mlp_post_norm = RMSNorm(arch.width, arch) if arch.post_norms else None

    def __call__(self, x_BTD, place: Place, view_kv=(), key=None):
        keys = [None] * len(LINEAR_MAPS) if key is None else jax.random.split(key, len(LINEAR_MAPS))

        def add(x_BTD, more_BTD, post_norm):
            return constrain(
                x_BTD + (more_BTD if post_norm is None else post_norm(more_BTD)), ROWS, TOKENS, None
            )

        mixed_BTD, kv = self.attention(self.attention_norm(x_BTD), place, view_kv, keys[:4])
        x_BTD = add(x_BTD, mixed_BTD, self.attention_post_norm)
        return add(x_BTD, self.mlp(self.mlp_norm(x_BTD), keys[4:]), self.mlp_post_norm), kv


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
    """Tokens in, final hidden states out; `models.head` turns hidden states into probabilities.

    Layers in whole periods are stacked and, unless they are to be compiled apart, scanned, a period at a time;
    those behind them (`rest`) are stacked as well and unrolled.
    """

    def __init__(self, arch: Architecture, form: Form, behavior_ids: tuple[int, ...], dtype, rngs: nnx.Rngs):
        self.arch, self.form, self.behavior_ids, self.dtype = arch, form, behavior_ids, dtype
        self.embed = Embedding(arch, rngs)

        def stack(layers: int) -> Layer | None:
            @nnx.split_rngs(splits=layers)
            @nnx.vmap(in_axes=0, out_axes=0)
            def make(layer_rngs: nnx.Rngs) -> Layer:
                return Layer(arch, form, dtype, layer_rngs)

            return make(rngs) if layers else None

        self.layers, self.rest = stack(arch.stacked), stack(arch.layers - arch.stacked)
        self.norm = RMSNorm(arch.width, arch)
        self.head = None if arch.tied else Head(arch, rngs)
        self.behavior = Rows(len(behavior_ids), arch.width, arch.tied) if behavior_ids else None

    def __call__(
        self,
        tokens_BT: jax.Array,
        layout: Layout,
        view: KVView | None = None,
        dropout_key: jax.Array | None = None,
        slot: jax.Array | None = None,
    ) -> tuple[jax.Array, KVView]:
        """Runs the decoder.

        Args:
          tokens_BT: token ids.
          layout: where those tokens stand.
          view: keys and values of earlier tokens that these may attend to as well.
          dropout_key: in training, for the adapters' dropout.
          slot: from where on the view has room for these tokens.

        Returns:
          hidden_BTD behind the final norm, and the keys and values of these tokens; with a slot, the view with
          them in it.
        """
        hidden_BTD = behavior_rows.embed(self, tokens_BT)
        hidden_BTD *= jnp.asarray(self.arch.embedding_scale, self.dtype)
        hidden_BTD = constrain(hidden_BTD, ROWS, TOKENS, None)
        # Behind a write a read waits for it, so that nothing is copied. A scan's carry would be, all of it.
        first = slot if self.form.apart else None
        places = _places(self.arch, layout, None if view is None else view.layout, self.form.attention, first)
        more = {}  # for each layer, beside its parameters
        if view is not None:
            more['view_kv'] = view.k_LBKSH, view.v_LBKSH
        if dropout_key is not None:
            more['key'] = jax.random.split(dropout_key, self.arch.layers)
        run = self._run_apart if self.form.apart else self._scan
        hidden_BTD, kv = run(hidden_BTD, places, more)
        if slot is not None:
            layout = put(view.layout, layout, slot, axis=1)
            kv = kv if self.form.apart else put(more['view_kv'], kv, slot, axis=-2)
        return self.norm(hidden_BTD), KVView(*kv, layout)

    def _some(self, layers: Layer, places: list[Place]) -> Callable:
        """Consecutive layers from the first of a period: `(hidden_BTD, states, more)`, a list over layers each."""
        graph, _ = nnx.split(layers)

        def run(hidden_BTD, states, more):
            hidden_BTD, kvs = checkpoint_name(hidden_BTD, remat.LAYER), []
            for place, state, extra in zip(places, states, more, strict=False):
                hidden_BTD, kv = nnx.merge(graph, state)(hidden_BTD, place, **extra)
                kvs.append(kv)
            return hidden_BTD, kvs

        return run

    def _scan(self, hidden_BTD, places: list[Place], more: dict):
        """All layers, scanned; returns hidden states and (k_LBKTH, v_LBKTH)."""
        period, stacked = self.arch.period, self.arch.stacked

        def stack(kvs):
            return jax.tree.map(lambda *x: jnp.stack(x), *kvs)

        def unstacked(some: Callable, layers: int) -> Callable:
            def run(hidden_BTD, xs):
                hidden_BTD, kvs = some(hidden_BTD, *(_unstack(x, layers) for x in xs))
                return hidden_BTD, stack(kvs)

            return run

        kvs = []
        if self.layers is not None:
            _, state = nnx.split(self.layers)
            by_period = jax.tree.map(
                lambda x: x.reshape(-1, period, *x.shape[1:]),
                (state, jax.tree.map(lambda x: x[:stacked], more)),
            )
            one_period = unstacked(self._some(self.layers, places), period)
            one_period = remat.computed_again(one_period, self.form.remat, scanned=True)
            hidden_BTD, kv = jax.lax.scan(one_period, hidden_BTD, by_period)
            kvs.append(jax.tree.map(lambda x: x.reshape(stacked, *x.shape[2:]), kv))
        if self.rest is not None:
            _, state = nnx.split(self.rest)
            run = unstacked(self._some(self.rest, places), self.arch.layers - stacked)
            run = remat.computed_again(run, self.form.remat, scanned=False)
            hidden_BTD, kv = run(hidden_BTD, (state, jax.tree.map(lambda x: x[stacked:], more)))
            kvs.append(kv)
        return hidden_BTD, jax.tree.map(lambda *x: jnp.concatenate(x), *kvs)

    def _run_apart(self, hidden_BTD, places: list[Place], more: dict):
        """All layers, one after the other in the program; returns hidden states, and keys and values in tuples."""
        extras = [{} for _ in range(self.arch.layers)]
        for i, extra in enumerate(extras):
            if 'view_kv' in more:
                extra['view_kv'] = tuple(x[i] for x in more['view_kv'])
            if 'key' in more:
                extra['key'] = more['key'][i]
        kvs = []
        for layers in (self.layers, self.rest):
            if layers is None:
                continue
            run = remat.computed_again(self._some(layers, places), self.form.remat, scanned=False)
            run, (_, state) = jax.jit(run), nnx.split(layers)  # traced once for all periods
            states = _unstack(state)
            for start in range(0, len(states), self.arch.period):
                some = states[start : start + self.arch.period]
                hidden_BTD, kv = run(hidden_BTD, some, extras[len(kvs) : len(kvs) + len(some)])
                kvs += kv
        return hidden_BTD, tuple(zip(*kvs, strict=True))


def _places(
    arch: Architecture, layout: Layout, view: Layout | None, back_end: str, slot: jax.Array | None
) -> list[Place]:
    """A place per kind; equal ropes and windows are computed once."""
    scores = Scores(arch.score_scale, arch.attention_cap)

    def lower(window: int) -> Attend:
        if slot is not None:
            return in_view(AttentionMask(layout, put(view, layout, slot, axis=1), window), scores)
        own = AttentionMask(layout, layout, window)
        of_view = None if view is None else AttentionMask(layout, view, window)
        return backends.lower(own, scores, back_end, of_view)

    angles = {k.rope: rope.angles(layout.positions_BT, arch.head_width, k.rope) for k in arch.kinds}
    lowered = {window: lower(window) for window in {k.window for k in arch.kinds}}
    return [Place(angles[k.rope], lowered[k.window], slot) for k in arch.kinds]


def _unstack(tree, layers: int = 0) -> list:
    """What is stacked over layers, layer by layer; its gradient is one concatenation.

    A leaf may be a list over layers already. `layers` is their number where there is no leaf to tell it.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, list))
    layers = len(leaves[0]) if leaves else layers

    def split(x):
        return x if isinstance(x, list) else [part[0] for part in jax.lax.split(x, (1,) * layers)]

    by_layer = zip(*map(split, leaves), strict=True) if leaves else [()] * layers
    return [jax.tree.unflatten(structure, some) for some in by_layer]

"""Architecture: the sizes and switches that make the one decoder a Llama, a Qwen or a Gemma."""

from __future__ import annotations

import dataclasses

from bsft_jax.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What differs between the layers of a model.

    Attributes:
      rope: the rotary embedding of its queries and keys.
      window: tokens that a query sees, itself included; 0 for all.
    """

    rope: Rope
    window: int = 0


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes and switches of a decoder; `hub.configs` reads them from a Hugging Face `config.json`.

    Attributes:
      vocab_size: rows of the embedding table, which may be more than the tokenizer has ids.
      kinds: of the layers, a period that repeats up the stack.
      query_scale: of the attention scores; 0 for head_width ** -0.5.
      activation: of the gate, `silu` or `gelu_tanh`.
      qk_norm: queries and keys are normalised per head.
      post_norms: what a layer adds to the residual stream is normalised too.
      norm_offset: added to the scale of every norm (Gemma stores the difference from one).
      embedding_scale: factor of the embeddings.
      attention_cap, logit_cap: soft caps c · tanh(x / c) of scores and logits; 0 for none.
      init_std: standard deviation of random weights, a hundredth of it for maps added to the residual stream; the
        default is `transformers`'s.
    """

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    max_positions: int
    kinds: tuple[LayerKind, ...]
    norm_eps: float
    tied: bool
    qkv_bias: bool
    output_bias: bool = False
    mlp_bias: bool = False
    query_scale: float = 0.0
    activation: str = 'silu'
    qk_norm: bool = False
    post_norms: bool = False
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    init_std: float = 0.02

    @property
    def period(self) -> int:
        """Layers after which the kinds repeat."""
        return len(self.kinds)

    @property
    def stacked(self) -> int:
        """Layers in whole periods, which are stacked and scanned; the others stand behind them."""
        return self.layers - self.layers % self.period

    @property
    def score_scale(self) -> float:
        return self.query_scale or self.head_width**-0.5

    @property
    def parameters(self) -> int:
        """Number of parameters of the checkpoint, without behavior rows."""
        d, q, kv = self.width, self.heads * self.head_width, self.kv_heads * self.head_width
        attention = d * q + 2 * d * kv + q * d + self.qkv_bias * (q + 2 * kv) + self.output_bias * d
        mlp = 3 * d * self.ffn_width + self.mlp_bias * (2 * self.ffn_width + d)
        norms = (4 if self.post_norms else 2) * d + 2 * self.head_width * self.qk_norm
        tables = self.vocab_size * d * (1 if self.tied else 2)
        return tables + self.layers * (attention + mlp + norms) + d

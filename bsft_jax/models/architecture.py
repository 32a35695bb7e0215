"""Architecture: sizes and switches that make the one decoder a Llama, a Qwen or a Gemma."""

from __future__ import annotations

import dataclasses

from bsft_jax.ops.rope import Rope


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """Describes one of the kinds of layers in a model.

    Attributes:
      rope: rotary embedding of queries and keys.
      window: tokens that a query sees, itself included; 0 for all.
    """

    rope: Rope
    window: int = 0


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Holds the sizes and switches of a decoder.

    `hub.configs` reads them from a Hugging Face `config.json`.

    Attributes:
      family: name of the model family, such as `qwen2`.
      vocab_size: rows of the embedding table, which may exceed the ids of the tokenizer.
      embed_dim: width of the residual stream.
      num_layers: number of layers.
      num_heads: query heads.
      num_kv_heads: key/value heads.
      head_dim: width of an attention head.
      mlp_dim: width of the MLP.
      max_positions: positions that the model supports.
      kinds: kinds of the layers, one period of the sequence that repeats up the stack.
      norm_eps: epsilon of the norms.
      tied: whether the LM head is the embedding table.
      qkv_bias: whether queries, keys and values have biases.
      output_bias: whether attention's output map has one.
      mlp_bias: whether the maps of the MLP have one.
      query_scale: scale of the attention scores; 0 for head_dim ** -0.5.
      activation: activation of the gate, `silu` or `gelu_tanh`.
      qk_norm: whether queries and keys are normalized per head.
      post_norms: whether the updates of the residual stream are normalized too.
      norm_scale_offset: added to the scale of every norm; Gemma stores the difference from one.
      embedding_scale: factor of the embeddings.
      attn_softcap: soft cap c · tanh(x / c) of attention scores; 0 for none.
      logit_softcap: soft cap of logits; 0 for none.
      init_std: standard deviation of random weights, and a hundredth of it for maps whose output is
        added to the residual stream; the default is that of `transformers`.
    """

    family: str
    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
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
    norm_scale_offset: float = 0.0
    embedding_scale: float = 1.0
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0
    init_std: float = 0.02

    @property
    def period(self) -> int:
        """Returns the number of layers after which the kinds repeat."""
        return len(self.kinds)

    @property
    def stacked(self) -> int:
        """Returns the number of layers in whole periods; the remainder follows them."""
        return self.num_layers - self.num_layers % self.period

    @property
    def score_scale(self) -> float:
        """Returns the factor that turns dot products into attention scores."""
        return self.query_scale or self.head_dim**-0.5

    @property
    def parameters(self) -> int:
        """Returns the number of parameters of the checkpoint, without behavior rows."""
        d, q, kv = self.embed_dim, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = d * q + 2 * d * kv + q * d + self.qkv_bias * (q + 2 * kv) + self.output_bias * d
        mlp = 3 * d * self.mlp_dim + self.mlp_bias * (2 * self.mlp_dim + d)
        norms = (4 if self.post_norms else 2) * d + 2 * self.head_dim * self.qk_norm
        return self.embedding_parameters + self.num_layers * (attention + mlp + norms) + d

    @property
    def embedding_parameters(self) -> int:
        """Returns the number of parameters of the embedding table and an LM head of its own."""
        return self.vocab_size * self.embed_dim * (1 if self.tied else 2)

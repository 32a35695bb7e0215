"""Architecture: the sizes and switches that make the one decoder a Llama or a Qwen2."""

from __future__ import annotations

import dataclasses
from typing import Any

from bsft_jax.errors import UserError

FAMILIES = {'llama': 'LlamaForCausalLM', 'qwen2': 'Qwen2ForCausalLM'}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder, read from a Hugging Face `config.json`.

    `vocab_size` counts the rows of the embedding table, which may be more than the tokenizer has ids.
    `init_std` is the standard deviation of random weights; the default is `transformers`'s.
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
    rope_theta: float
    norm_eps: float
    tied: bool
    qkv_bias: bool
    output_bias: bool = False
    mlp_bias: bool = False
    init_std: float = 0.02

    @property
    def parameters(self) -> int:
        """Number of parameters of the checkpoint, without behavior rows."""
        d, q, kv = self.width, self.heads * self.head_width, self.kv_heads * self.head_width
        attention = d * q + 2 * d * kv + q * d + self.qkv_bias * (q + 2 * kv) + self.output_bias * d
        mlp = 3 * d * self.ffn_width + self.mlp_bias * (2 * self.ffn_width + d)
        tables = self.vocab_size * d * (1 if self.tied else 2)
        return tables + self.layers * (attention + mlp + 2 * d) + d


def from_hf_config(config: dict[str, Any], where: str = 'config.json') -> Architecture:
    """Reads a Hugging Face `config.json`; raises UserError for what the decoder cannot do exactly."""
    family = config.get('model_type')
    if family not in FAMILIES:
        raise UserError(
            f'unknown architecture {family!r}', where=where, fix=f'supported: {", ".join(FAMILIES)}'
        )

    def need(key: str):
        if config.get(key) is None:
            raise UserError(f'{key!r} is missing', where=where)
        return config[key]

    def refuse(condition: bool, what: str) -> None:
        if condition:
            raise UserError(f'{what} is not supported', where=where)

    rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
    refuse(rope.get('rope_type', rope.get('type', 'default')) != 'default', f'rope scaling {rope}')
    refuse(config.get('hidden_act', 'silu') != 'silu', f'hidden_act {config.get("hidden_act")!r}')
    layer_types = config.get('layer_types') or ['full_attention']
    refuse(
        bool(config.get('use_sliding_window')) and set(layer_types) != {'full_attention'},
        'sliding-window attention',
    )
    heads = need('num_attention_heads')
    bias = bool(config.get('attention_bias', False))
    return Architecture(
        family=family,
        vocab_size=need('vocab_size'),
        width=need('hidden_size'),
        layers=need('num_hidden_layers'),
        heads=heads,
        kv_heads=config.get('num_key_value_heads') or heads,
        head_width=config.get('head_dim') or need('hidden_size') // heads,
        ffn_width=need('intermediate_size'),
        max_positions=need('max_position_embeddings'),
        rope_theta=float(rope.get('rope_theta') or config.get('rope_theta') or 10000.0),
        norm_eps=float(config.get('rms_norm_eps', 1e-6)),
        tied=bool(config.get('tie_word_embeddings', False)),
        qkv_bias=family == 'qwen2' or bias,
        output_bias=family == 'llama' and bias,
        mlp_bias=family == 'llama' and bool(config.get('mlp_bias', False)),
        init_std=float(config.get('initializer_range', 0.02)),
    )

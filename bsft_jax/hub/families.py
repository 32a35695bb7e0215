"""Families of dense decoders: one entry per `model_type` of a Hugging Face `config.json`.

An entry holds everything that distinguishes a family and that its files do not state: the defaults
of `transformers`, the names of the norms and the switches of the decoder. A family that the decoder
can already compute is added by one entry here; `hub.configs` and `hub.tables` read nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]
Switch = bool | str

FULL, SLIDING = 'full_attention', 'sliding_attention'
DEFAULT_ROPE_THETA = 10_000.0

# Norms of a layer: module in the checkpoint -> module of the decoder.
PRE_NORMS = {'input_layernorm': 'attention_norm', 'post_attention_layernorm': 'mlp_norm'}
PRE_AND_POST_NORMS = {
    'input_layernorm': 'attention_norm',
    'post_attention_layernorm': 'attention_post_norm',
    'pre_feedforward_layernorm': 'mlp_norm',
    'post_feedforward_layernorm': 'mlp_post_norm',
}
QK_NORMS = {'self_attn.q_norm': 'attention/q_norm', 'self_attn.k_norm': 'attention/k_norm'}

# Activations of the gate: name in `config.json` -> name in the decoder.
ACTIVATIONS = {'silu': 'silu', 'swish': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}

# Config fields that the decoder cannot compute -> error message.
UNSUPPORTED = {
    'use_bidirectional_attention': 'bidirectional attention is not supported',
    'per_layer_config': 'layers of different sizes (per_layer_config) are not supported',
    'transformers_weights': 'weights in another file (transformers_weights) are not supported',
}


def full_layers(config: Config) -> list[str]:
    """Returns full attention for every layer, unless the file lists the layers."""
    return config.get('layer_types') or [FULL] * config['num_hidden_layers']


def sliding_layers(config: Config) -> list[str]:
    """Returns sliding attention for every layer, or full attention where the file has no window.

    `layer_types` takes precedence: transformers reads such a file as a Ministral.
    """
    layer_type = SLIDING if config.get('sliding_window') else FULL
    return config.get('layer_types') or [layer_type] * config['num_hidden_layers']


def upper_layers_slide(config: Config) -> list[str]:
    """Returns sliding attention from layer `max_window_layers` on; `layer_types` takes precedence.

    Without `use_sliding_window` there is no window.
    """
    if not config.get('use_sliding_window'):
        return full_layers(config)
    return config.get('layer_types') or [
        SLIDING if layer >= config['max_window_layers'] else FULL
        for layer in range(config['num_hidden_layers'])
    ]


def every_nth_layer_full(period: int, period_field: str = '') -> Callable[[Config], list[str]]:
    """Returns a rule under which the last layer of each period is full and the others slide.

    Args:
      period: number of layers, for files without `period_field`.
      period_field: config field that overrides `period`.
    """

    def layer_types(config: Config) -> list[str]:
        n = config.get(period_field) or period
        return config.get('layer_types') or [
            SLIDING if (layer + 1) % n else FULL for layer in range(config['num_hidden_layers'])
        ]

    return layer_types


def default_query_scale(config: Config) -> float:
    """Returns 0, which stands for `head_dim ** -0.5`."""
    del config
    return 0.0


def gemma_query_scale(config: Config) -> float:
    """Returns `query_pre_attn_scalar ** -0.5`."""
    return float(config.get('query_pre_attn_scalar', 256)) ** -0.5


def unit_embedding_scale(config: Config) -> float:
    """Returns 1."""
    del config
    return 1.0


def gemma_embedding_scale(config: Config) -> float:
    """Returns the square root of the embedding width."""
    return config['hidden_size'] ** 0.5


@dataclasses.dataclass(frozen=True)
class Family:
    """Describes one family of checkpoints.

    A `Switch` is always on, always off, or the name of the config field that turns it on.

    Attributes:
      model_type: value of `model_type` in `config.json`.
      layer_types: returns `full_attention` or `sliding_attention` for each layer.
      norms: norms of a layer, `{module in the checkpoint: module of the decoder}`.
      defaults: values that `transformers` takes for absent config fields; a null field stays null.
      qkv_bias: biases of the query, key and value projections.
      output_bias: bias of attention's output projection.
      mlp_bias: biases of the feed-forward block.
      tied: default of `tie_word_embeddings`.
      activation_field: config field of the gate's activation.
      activation: default of `activation_field`.
      activations: what `activation_field` may hold, `{its value: the decoder's activation}`.
      norm_scale_offset: added to the scale of every norm (Gemma stores the difference from one).
      query_scale: returns the factor of the attention scores; 0 stands for `head_dim ** -0.5`.
      embedding_scale: returns the factor of the embeddings.
      attn_softcap_field: config field of the soft cap of the attention scores; '' for no cap.
      logit_softcap_field: config field of the soft cap of the logits; '' for no cap.
      window_switch: config field without which there is no sliding window; '' for none such.
      rope_theta: default of `rope_theta`, for files without `rope_parameters`.
      local_rope_theta: default of `rope_local_base_freq`, the theta of sliding layers in files
        without `rope_parameters`; 0 for families with one theta for all layers.
      unsupported: config fields that must not be set, `{field: error message}`.
      vision_model_type: `model_type` of checkpoints that hold this model beside a vision tower.
      causal_lm: class of the text model in `transformers`; needed with `vision_model_type`.
    """

    model_type: str
    layer_types: Callable[[Config], list[str]] = full_layers
    norms: Mapping[str, str] = dataclasses.field(default_factory=lambda: PRE_NORMS)
    defaults: Config = dataclasses.field(default_factory=dict)
    qkv_bias: Switch = 'attention_bias'
    output_bias: Switch = 'attention_bias'
    mlp_bias: Switch = False
    tied: bool = False
    activation_field: str = 'hidden_act'
    activation: str = 'silu'
    activations: Mapping[str, str] = dataclasses.field(default_factory=lambda: ACTIVATIONS)
    norm_scale_offset: float = 0.0
    query_scale: Callable[[Config], float] = default_query_scale
    embedding_scale: Callable[[Config], float] = unit_embedding_scale
    attn_softcap_field: str = ''
    logit_softcap_field: str = ''
    window_switch: str = ''
    rope_theta: float = DEFAULT_ROPE_THETA
    local_rope_theta: float = 0.0
    unsupported: Mapping[str, str] = dataclasses.field(default_factory=lambda: UNSUPPORTED)
    vision_model_type: str = ''
    causal_lm: str = ''

    @property
    def qk_norm(self) -> bool:
        """Returns whether queries and keys are normalized per attention head."""
        return 'attention/q_norm' in self.norms.values()

    @property
    def post_norms(self) -> bool:
        """Returns whether the outputs of attention and of the feed-forward block are normalized."""
        return 'attention_post_norm' in self.norms.values()


# Shared by Gemma 2 and 3.
_GEMMA: dict[str, Any] = {
    'tied': True,
    'activation_field': 'hidden_activation',
    'activation': 'gelu_pytorch_tanh',
    'norm_scale_offset': 1.0,
    'query_scale': gemma_query_scale,
    'embedding_scale': gemma_embedding_scale,
}

_QWEN_DEFAULTS = {'sliding_window': 4096, 'max_window_layers': 28, 'num_key_value_heads': 32}

_FAMILIES = (
    Family('llama', mlp_bias='mlp_bias'),
    Family(
        'mistral',
        layer_types=sliding_layers,
        defaults={'sliding_window': 4096, 'num_key_value_heads': 8},
        qkv_bias=False,
        output_bias=False,
    ),
    Family(
        'qwen2',
        layer_types=upper_layers_slide,
        defaults=_QWEN_DEFAULTS,
        window_switch='use_sliding_window',
        qkv_bias=True,
        output_bias=False,
    ),
    Family(
        'qwen3',
        layer_types=upper_layers_slide,
        norms=PRE_NORMS | QK_NORMS,
        defaults=_QWEN_DEFAULTS | {'head_dim': 128},
        window_switch='use_sliding_window',
    ),
    Family(
        'gemma',
        defaults={'num_key_value_heads': 16, 'head_dim': 256},
        tied=True,
        activation='gelu_pytorch_tanh',
        # The first files of this family name the other function and mean this one.
        activations=ACTIVATIONS | {'gelu': 'gelu_tanh'},
        norm_scale_offset=1.0,
        embedding_scale=gemma_embedding_scale,
    ),
    Family(
        'gemma2',
        layer_types=every_nth_layer_full(2),
        norms=PRE_AND_POST_NORMS,
        defaults={
            'sliding_window': 4096,
            'num_key_value_heads': 4,
            'head_dim': 256,
            'attn_logit_softcapping': 50.0,
            'final_logit_softcapping': 30.0,
        },
        **_GEMMA,
        attn_softcap_field='attn_logit_softcapping',
        logit_softcap_field='final_logit_softcapping',
    ),
    Family(
        'gemma3_text',
        layer_types=every_nth_layer_full(6, 'sliding_window_pattern'),
        norms=PRE_AND_POST_NORMS | QK_NORMS,
        defaults={
            'vocab_size': 262_208,
            'hidden_size': 2304,
            'intermediate_size': 9216,
            'num_hidden_layers': 26,
            'num_attention_heads': 8,
            'num_key_value_heads': 4,
            'head_dim': 256,
            'max_position_embeddings': 131_072,
            'sliding_window': 4096,
        },
        **_GEMMA,
        logit_softcap_field='final_logit_softcapping',
        rope_theta=1_000_000.0,
        local_rope_theta=10_000.0,
        unsupported=UNSUPPORTED
        | {'attn_logit_softcapping': 'soft caps of attention in Gemma 3 are not supported'},
        vision_model_type='gemma3',
        causal_lm='Gemma3ForCausalLM',
    ),
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in _FAMILIES}

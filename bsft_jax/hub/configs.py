"""From a Hugging Face `config.json` to an Architecture, or one line about what cannot be done exactly."""

from __future__ import annotations

from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.models.rope import Rope

FAMILIES = ('llama', 'mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3_text')
FULL, SLIDING = 'full_attention', 'sliding_attention'
_ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
_GEMMA3_LOCAL_THETA, _GEMMA3_PERIOD = 10000.0, 6
_ABSENT = {  # what transformers takes for a field that the file lacks; null stays null
    'mistral': {'sliding_window': 4096},
    'qwen2': {'sliding_window': 4096, 'max_window_layers': 28},
    'qwen3': {'sliding_window': 4096, 'max_window_layers': 28, 'head_dim': 128},
    'gemma2': {
        'sliding_window': 4096,
        'head_dim': 256,
        'attn_logit_softcapping': 50.0,
        'final_logit_softcapping': 30.0,
    },
    'gemma3_text': {
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
}


def sees_images(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of a checkpoint with a text model and one that sees (Gemma 3 from 4B on)."""
    return config.get('model_type') == 'gemma3'


def text_model(config: dict[str, Any]) -> dict[str, Any]:
    """The `config.json` of the text model in a checkpoint that sees images; else as it is.

    Such files leave out what transformers takes for granted, and an export must say it.
    """
    if not sees_images(config):
        return config
    shared = {
        key: config[key]
        for key in ('bos_token_id', 'eos_token_id', 'pad_token_id', 'dtype', 'torch_dtype', 'bsft')
        if key in config
    }
    text = _ABSENT['gemma3_text'] | config.get('text_config', {}) | shared
    return text | {'model_type': 'gemma3_text', 'architectures': ['Gemma3ForCausalLM']}


def architecture_of(config: dict[str, Any], where: str = 'config.json') -> Architecture:
    """Reads a Hugging Face `config.json`; raises UserError for what the decoder cannot do exactly."""
    family = config.get('model_type')
    if family not in FAMILIES:
        fix = f'supported: {", ".join(FAMILIES)}'
        raise UserError(f'unknown architecture {family!r}', where=where, fix=fix)

    config = _ABSENT.get(family, {}) | config
    if family == 'gemma3_text' and config.get('attn_logit_softcapping'):
        raise UserError('soft caps of attention in Gemma 3 are not supported', where=where)

    def need(key: str):
        if config.get(key) is None:
            raise UserError(f'{key!r} is missing', where=where)
        return config[key]

    heads, layers = need('num_attention_heads'), need('num_hidden_layers')
    head_width = config.get('head_dim') or need('hidden_size') // heads
    bias = bool(config.get('attention_bias', False)) and family != 'mistral'
    gemma = family.startswith('gemma')
    activation = config.get('hidden_activation' if gemma else 'hidden_act') or (
        'gelu_pytorch_tanh' if gemma else 'silu'
    )
    if activation not in _ACTIVATIONS:
        raise UserError(f'hidden_act {activation!r} is not supported', where=where)
    if config.get('use_bidirectional_attention'):
        raise UserError('bidirectional attention is not supported', where=where)
    return Architecture(
        family=family,
        vocab_size=need('vocab_size'),
        width=need('hidden_size'),
        layers=layers,
        heads=heads,
        kv_heads=config.get('num_key_value_heads') or heads,
        head_width=head_width,
        ffn_width=need('intermediate_size'),
        max_positions=need('max_position_embeddings'),
        kinds=_period([_kind(config, name, where) for name in _layer_types(config, family, layers, where)]),
        norm_eps=float(config.get('rms_norm_eps', 1e-6)),
        tied=bool(config.get('tie_word_embeddings', gemma)),
        qkv_bias=family == 'qwen2' or bias,
        output_bias=family != 'qwen2' and bias,
        mlp_bias=family == 'llama' and bool(config.get('mlp_bias', False)),
        query_scale=float(config.get('query_pre_attn_scalar', 256)) ** -0.5 if gemma else 0.0,
        activation=_ACTIVATIONS[activation],
        qk_norm=family in ('qwen3', 'gemma3_text'),
        post_norms=gemma,
        norm_offset=float(gemma),
        embedding_scale=need('hidden_size') ** 0.5 if gemma else 1.0,
        attention_cap=float(config.get('attn_logit_softcapping') or 0.0) if gemma else 0.0,
        logit_cap=float(config.get('final_logit_softcapping') or 0.0) if gemma else 0.0,
        init_std=float(config.get('initializer_range', 0.02)),
    )


def _layer_types(config: dict[str, Any], family: str, layers: int, where: str) -> list[str]:
    """`full_attention` or `sliding_attention` for each layer; older files say it in other fields."""
    if family == 'llama':
        return [FULL] * layers
    if family == 'mistral':
        return [SLIDING if config.get('sliding_window') else FULL] * layers
    if family.startswith('qwen') and not config.get('use_sliding_window'):
        return [FULL] * layers
    if types := config.get('layer_types'):
        if len(types) != layers or set(types) - {FULL, SLIDING}:
            raise UserError(f'layer_types {types} is not supported', where=where)
        return types
    if family.startswith('qwen'):
        first = config['max_window_layers']
        return [SLIDING if i >= first else FULL for i in range(layers)]
    period = 2 if family == 'gemma2' else config.get('sliding_window_pattern') or _GEMMA3_PERIOD
    return [FULL if (i + 1) % period == 0 else SLIDING for i in range(layers)]


def _kind(config: dict[str, Any], layer_type: str, where: str) -> LayerKind:
    window = (config.get('sliding_window') or 0) if layer_type == SLIDING else 0
    if layer_type == SLIDING and not window:
        raise UserError("'sliding_window' is missing", where=where)
    return LayerKind(_rope(config, layer_type, where), window)


def _rope(config: dict[str, Any], layer_type: str, where: str) -> Rope:
    """transformers 5 has `rope_parameters`, for Gemma 3 one per layer type; older files three fields."""
    if config.get('rope_scaling') and config.get('rope_parameters'):
        raise UserError('rope_scaling and rope_parameters are both there', where=where, fix='keep one')
    fields = config.get('rope_parameters') or {}
    fields = fields.get(layer_type, fields) or {}
    theta = fields.get('rope_theta') or config.get('rope_theta')
    if not fields:
        fields = config.get('rope_scaling') or {}
        if config['model_type'] == 'gemma3_text':
            theta = config.get('rope_theta') or 1_000_000.0
            if layer_type == SLIDING:
                fields, theta = {}, config.get('rope_local_base_freq') or _GEMMA3_LOCAL_THETA
    theta = float(theta or 10000.0)
    kind = fields.get('rope_type', fields.get('type', 'default'))
    if kind == 'default':
        return Rope(theta)
    try:
        if kind == 'linear':
            return Rope(theta, float(fields['factor']))
        if kind == 'llama3':
            return Rope(
                theta,
                float(fields['factor']),
                float(fields['low_freq_factor']),
                float(fields['high_freq_factor']),
                int(fields['original_max_position_embeddings']),
            )
    except KeyError as error:
        raise UserError(f'rope scaling {fields} lacks {error}', where=where) from error
    raise UserError(f'rope scaling {fields} is not supported', where=where)


def _period(kinds: list[LayerKind]) -> tuple[LayerKind, ...]:
    """The shortest run of kinds that repeats up the whole stack."""
    n = len(kinds)
    return next(tuple(kinds[:p]) for p in range(1, n + 1) if all(kinds[i] == kinds[i % p] for i in range(n)))

"""Reading of a Hugging Face `config.json` into an `Architecture`.

Whatever the decoder cannot compute exactly is refused with one line.
"""

from __future__ import annotations

import math
from typing import Any

from bsft_jax.config.shape import parse_shape
from bsft_jax.errors import UserError
from bsft_jax.hub import fields
from bsft_jax.hub.families import FAMILIES, FULL, SLIDING, Family, Switch
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.ops.rope import Rope

Config = dict[str, Any]

REQUIRED = (
    'num_attention_heads',
    'num_hidden_layers',
    'hidden_size',
    'vocab_size',
    'intermediate_size',
    'max_position_embeddings',
)

# Fields of a checkpoint with a vision tower that belong to its text model as well.
_SHARED = ('bos_token_id', 'eos_token_id', 'pad_token_id', 'dtype', 'torch_dtype', 'bsft')
# Fields of a scaled rotary embedding. Each is a number above 0.
_LLAMA3 = ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')


def has_vision_tower(config: Config) -> bool:
    """Returns whether the text model has a vision tower beside it, as in Gemma 3 from 4B up."""
    return _text_family(config) is not None


def text_config(config: Config, where: str = 'config.json') -> Config:
    """Returns the `config.json` of the text model; a config without a vision tower is unchanged.

    Fields that such files leave out get the defaults of `transformers`, since an export must state
    them. The outer flag says whether the LM head is tied, as it does there.

    Raises:
      UserError: the config is no object, or one of its fields is of the wrong kind.
    """
    fields.check(config, where)
    family = _text_family(config)
    if family is None:
        return config
    shared = {key: config[key] for key in _SHARED if key in config}
    shared['tie_word_embeddings'] = config.get('tie_word_embeddings', family.tied)
    text = dict(family.defaults) | (config.get('text_config') or {}) | shared
    return text | {'model_type': family.model_type, 'architectures': [family.causal_lm]}


def _text_family(config: Config) -> Family | None:
    """Returns the family of the text model of a checkpoint with a vision tower, else None."""
    by_vision_type = {f.vision_model_type: f for f in FAMILIES.values() if f.vision_model_type}
    return by_vision_type.get(config.get('model_type') or '')


def used_ids(config: Config) -> frozenset[int]:
    """Returns the token ids that a `config.json` names, such as that of the padding token."""
    named = (v for key, v in config.items() if key.endswith(('_token_id', '_token_index')))
    ids = (i for value in named for i in (value if isinstance(value, list) else [value]))
    return frozenset(i for i in ids if type(i) is int)


def with_shape(config: Config, text: str) -> Config:
    """Returns a `config.json` with the sizes that `model.shape` names; '' changes none.

    A list of layer types is dropped, so that the family's default is that of the new depth.

    Raises:
      UserError: as `parse_shape` does.
    """
    if not text:
        return config
    shape = parse_shape(text)
    sizes = {
        'hidden_size': shape.width,
        'intermediate_size': shape.mlp,
        'num_hidden_layers': shape.layers,
        'num_attention_heads': shape.heads,
        'num_key_value_heads': shape.kv_heads,
        'head_dim': shape.head_dim,
    }
    if shape.std:
        sizes['initializer_range'] = shape.std
    return {key: value for key, value in config.items() if key != 'layer_types'} | sizes


def architecture_of(config: Config, where: str = 'config.json') -> Architecture:
    """Returns the architecture that a `config.json` describes.

    Args:
      config: content of the file.
      where: path of the file, for error messages.

    Raises:
      UserError: for an unknown family, a missing field or one of the wrong kind, sizes that do not
        fit each other, or a feature that the decoder cannot compute exactly.
    """
    fields.check(config, where)
    family = _family_of(config, where)
    config = dict(family.defaults) | config
    _check_supported(config, family, where)
    _check_complete(config, where)

    num_heads, num_kv_heads, head_dim = _head_sizes(config, where)
    return Architecture(
        family=family.model_type,
        vocab_size=config['vocab_size'],
        embed_dim=config['hidden_size'],
        num_layers=config['num_hidden_layers'],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        mlp_dim=config['intermediate_size'],
        max_positions=config['max_position_embeddings'],
        kinds=_layer_kinds(config, family, where),
        norm_eps=float(config.get('rms_norm_eps', 1e-6)),
        tied=bool(config.get('tie_word_embeddings', family.tied)),
        qkv_bias=_is_on(family.qkv_bias, config),
        output_bias=_is_on(family.output_bias, config),
        mlp_bias=_is_on(family.mlp_bias, config),
        query_scale=family.query_scale(config),
        activation=_activation(config, family, where),
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
        norm_scale_offset=family.norm_scale_offset,
        embedding_scale=family.embedding_scale(config),
        attn_softcap=float(config.get(family.attn_softcap_field) or 0.0),
        logit_softcap=float(config.get(family.logit_softcap_field) or 0.0),
        init_std=float(config.get('initializer_range', 0.02)),
    )


def _family_of(config: Config, where: str) -> Family:
    model_type = config.get('model_type')
    if model_type not in FAMILIES:
        fix = f'supported: {", ".join(FAMILIES)}'
        raise UserError(f'unknown architecture {model_type!r}', where=where, fix=fix)
    return FAMILIES[model_type]


def _check_supported(config: Config, family: Family, where: str) -> None:
    for field, message in family.unsupported.items():
        if config.get(field):
            raise UserError(message, where=where)


def _check_complete(config: Config, where: str) -> None:
    for field in REQUIRED:
        if config.get(field) is None:
            raise UserError(f'{field!r} is missing', where=where)


def _head_sizes(config: Config, where: str) -> tuple[int, int, int]:
    """Returns the number of query heads, that of key and value heads, and the width of a head."""
    heads, width = config['num_attention_heads'], config['hidden_size']
    kv_heads = config.get('num_key_value_heads') or heads
    if heads % kv_heads:
        message = f'{heads} attention heads do not divide among {kv_heads} key and value heads'
        raise UserError(message, where=where)
    head_dim = config.get('head_dim')
    if head_dim is None and width % heads:
        message = f'hidden_size {width} does not divide into {heads} heads, and head_dim is missing'
        raise UserError(message, where=where)
    head_dim = head_dim or width // heads
    if head_dim % 2:
        raise UserError(f'heads of {head_dim} dimensions cannot be rotated in pairs', where=where)
    return heads, kv_heads, head_dim


def _is_on(switch: Switch, config: Config) -> bool:
    return bool(config.get(switch)) if isinstance(switch, str) else switch


def _activation(config: Config, family: Family, where: str) -> str:
    activation = config.get(family.activation_field, family.activation)
    if activation not in family.activations:
        message = f'{family.activation_field} {fields.shorten(activation)} is not supported'
        raise UserError(message, where=where)
    return family.activations[activation]


def _layer_kinds(config: Config, family: Family, where: str) -> tuple[LayerKind, ...]:
    """Returns the kinds of the layers, as the shortest period that repeats up the stack."""
    n, types = config['num_hidden_layers'], family.layer_types(config)
    if len(types) != n or set(types) - {FULL, SLIDING}:
        message = f'layer_types {fields.shorten(types)} is not supported for {n} layers'
        raise UserError(message, where=where)
    kinds_by_type = {t: _layer_kind(config, family, t, where) for t in sorted(set(types))}
    kinds = [kinds_by_type[layer_type] for layer_type in types]
    for period in range(1, n + 1):
        if all(kinds[i] == kinds[i % period] for i in range(n)):
            break
    return tuple(kinds[:period])


def _layer_kind(config: Config, family: Family, layer_type: str, where: str) -> LayerKind:
    window = (config.get('sliding_window') or 0) if layer_type == SLIDING else 0
    if layer_type == SLIDING and 'sliding_window' not in family.defaults:
        message = f'layer_types names sliding layers, which {family.model_type} does not have'
        raise UserError(message, where=where)
    if layer_type == SLIDING and not window:
        raise UserError("'sliding_window' is missing", where=where)
    if window and family.window_switch and not config.get(family.window_switch):
        message = f'layer_types names sliding layers, and {family.window_switch} is off'
        raise UserError(message, where=where)
    return LayerKind(_rope(config, family, layer_type, where), window)


def _rope(config: Config, family: Family, layer_type: str, where: str) -> Rope:
    """Returns the rotary embedding of the layers of one type.

    Files of transformers 5 have `rope_parameters`, older ones `rope_theta` and `rope_scaling`. A
    theta among the parameters takes precedence.

    A family with two thetas (Gemma 3) has parameters per layer type, or `rope_local_base_freq` and
    a scaling of the full layers only.
    """
    scaling, parameters = config.get('rope_scaling') or {}, config.get('rope_parameters') or {}
    if scaling and parameters:
        message = 'rope_scaling and rope_parameters are both there'
        raise UserError(message, where=where, fix='keep one')
    is_nested = bool({FULL, SLIDING} & (scaling.keys() | parameters.keys()))
    own, theta, theta_field = scaling or parameters, family.rope_theta, 'rope_theta'
    if not family.local_rope_theta:
        if is_nested:
            message = f'{family.model_type} has one rotary embedding, not one per layer type'
            raise UserError(message, where=where)
        # This field takes precedence over that of the scaling, as in transformers.
        if config.get(_LLAMA3[-1]) is not None:
            own = own | {_LLAMA3[-1]: config[_LLAMA3[-1]]}
    else:
        _check_two_ropes(scaling, parameters, is_nested, where)
        own = scaling if layer_type == FULL else {}
        if parameters:
            own = parameters.get(layer_type) or {}
        if layer_type == SLIDING:
            theta, theta_field = family.local_rope_theta, 'rope_local_base_freq'
    if not isinstance(own, dict):
        raise UserError(f'rope parameters {fields.shorten(own)} are no object', where=where)
    theta = _positive(own, 'rope_theta', where, config.get(theta_field) or theta)
    return _scaled_rope(theta, own, config, where)


def _check_two_ropes(scaling: Config, parameters: Config, is_nested: bool, where: str) -> None:
    """Refuses what transformers reads past in a family with a rotary embedding per layer type."""
    if parameters and not is_nested:
        message = f'rope_parameters must have an entry {FULL} and one {SLIDING}'
        raise UserError(message, where=where)
    if scaling and (is_nested or ('type' in scaling and 'rope_type' not in scaling)):
        message = f'rope_scaling {fields.shorten(scaling)} is not supported'
        fix = "name its kind by 'rope_type', which alone transformers 5 reads in this family"
        raise UserError(message, where=where, fix=fix)


def _positive(parameters: Config, field: str, where: str, default: Any = None) -> float:
    """Returns a field of rope parameters; raises UserError unless it is a number above 0."""
    value = default if parameters.get(field) is None else parameters[field]
    if value is None:
        raise UserError(f'rope scaling {fields.shorten(parameters)} lacks {field!r}', where=where)
    if not (fields.is_number(value) and value > 0):
        message = f'{field!r} of the rope parameters is not a number above 0'
        raise UserError(f'{message}: {fields.shorten(value)}', where=where)
    return float(value)


def _scaled_rope(theta: float, scaling: Config, config: Config, where: str) -> Rope:
    """Returns a rotary embedding with the frequency scaling that a config names."""
    kind = scaling.get('rope_type', scaling.get('type', 'default'))
    # transformers heeds this factor only where it scales, and then fails.
    field = 'partial_rotary_factor'
    partial = _positive(scaling, field, where, config.get(field) or 1)
    if kind == 'default':
        return Rope(theta)
    if kind not in ('linear', 'llama3') or partial != 1:
        raise UserError(f'rope scaling {fields.shorten(scaling)} is not supported', where=where)
    if kind == 'linear':
        return Rope(theta, _positive(scaling, 'factor', where))
    defaults = {_LLAMA3[-1]: config['max_position_embeddings']}
    factor, low, high, original = (
        _positive(scaling, field, where, defaults.get(field)) for field in _LLAMA3
    )
    if high <= low:
        message = f'high_freq_factor {high} is not above low_freq_factor {low}'
        raise UserError(message, where=where)
    return Rope(theta, factor, low, high, math.floor(original))

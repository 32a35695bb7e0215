"""Reading of a Hugging Face `config.json` into an `Architecture`.

Whatever the decoder cannot compute exactly is refused with one line.
"""

from __future__ import annotations

from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.hub.families import DEFAULT_ROPE_THETA, FAMILIES, FULL, SLIDING, Family, Switch
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.ops.rope import Rope

Config = dict[str, Any]

ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
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


def has_vision_tower(config: Config) -> bool:
    """Returns whether the text model has a vision tower beside it, as in Gemma 3 from 4B up."""
    return _text_family(config) is not None


def text_config(config: Config) -> Config:
    """Returns the `config.json` of the text model; a config without a vision tower is unchanged.

    Fields that such files leave out get the defaults of `transformers`, since an export must state
    them.
    """
    family = _text_family(config)
    if family is None:
        return config
    shared = {key: config[key] for key in _SHARED if key in config}
    text = dict(family.defaults) | config.get('text_config', {}) | shared
    return text | {'model_type': family.model_type, 'architectures': [family.causal_lm]}


def _text_family(config: Config) -> Family | None:
    """Returns the family of the text model of a checkpoint with a vision tower, else None."""
    by_vision_type = {f.vision_model_type: f for f in FAMILIES.values() if f.vision_model_type}
    return by_vision_type.get(config.get('model_type', ''))


def architecture_of(config: Config, where: str = 'config.json') -> Architecture:
    """Returns the architecture that a `config.json` describes.

    Args:
      config: content of the file.
      where: path of the file, for error messages.

    Raises:
      UserError: for an unknown family, a missing field, or a feature that the decoder cannot
        compute exactly.
    """
    family = _family_of(config, where)
    config = dict(family.defaults) | config
    _check_supported(config, family, where)
    _check_complete(config, where)

    num_heads = config['num_attention_heads']
    return Architecture(
        family=family.model_type,
        vocab_size=config['vocab_size'],
        embed_dim=config['hidden_size'],
        num_layers=config['num_hidden_layers'],
        num_heads=num_heads,
        num_kv_heads=config.get('num_key_value_heads') or num_heads,
        head_dim=config.get('head_dim') or config['hidden_size'] // num_heads,
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


def _is_on(switch: Switch, config: Config) -> bool:
    return bool(config.get(switch)) if isinstance(switch, str) else switch


def _activation(config: Config, family: Family, where: str) -> str:
    activation = config.get(family.activation_field) or family.activation
    if activation not in ACTIVATIONS:
        raise UserError(f'{family.activation_field} {activation!r} is not supported', where=where)
    return ACTIVATIONS[activation]


def _layer_kinds(config: Config, family: Family, where: str) -> tuple[LayerKind, ...]:
    """Returns the kinds of the layers, as the shortest period that repeats up the stack."""
    n, types = config['num_hidden_layers'], family.layer_types(config)
    if len(types) != n or set(types) - {FULL, SLIDING}:
        raise UserError(f'layer_types {types} is not supported', where=where)
    kinds = [_layer_kind(config, family, layer_type, where) for layer_type in types]
    for period in range(1, n + 1):
        if all(kinds[i] == kinds[i % period] for i in range(n)):
            break
    return tuple(kinds[:period])


def _layer_kind(config: Config, family: Family, layer_type: str, where: str) -> LayerKind:
    window = (config.get('sliding_window') or 0) if layer_type == SLIDING else 0
    if layer_type == SLIDING and not window:
        raise UserError("'sliding_window' is missing", where=where)
    return LayerKind(_rope(config, family, layer_type, where), window)


def _rope(config: Config, family: Family, layer_type: str, where: str) -> Rope:
    """Returns the rotary embedding of the layers of one type.

    Files of transformers 5 have `rope_parameters`, for some families (Gemma 3) one per layer type;
    older files have `rope_theta`, `rope_scaling` and, for Gemma 3, `rope_local_base_freq`.
    """
    if config.get('rope_scaling') and config.get('rope_parameters'):
        message = 'rope_scaling and rope_parameters are both there'
        raise UserError(message, where=where, fix='keep one')
    parameters = config.get('rope_parameters') or {}
    parameters = parameters.get(layer_type, parameters) or {}
    if parameters:
        theta = parameters.get('rope_theta') or config.get('rope_theta') or DEFAULT_ROPE_THETA
    elif family.local_rope_theta and layer_type == SLIDING:
        theta = config.get('rope_local_base_freq') or family.local_rope_theta
    else:
        theta = config.get('rope_theta') or family.rope_theta
        parameters = config.get('rope_scaling') or {}
    return _scaled_rope(float(theta), parameters, where)


def _scaled_rope(theta: float, scaling: Config, where: str) -> Rope:
    """Returns a rotary embedding with the frequency scaling that a config names."""
    kind = scaling.get('rope_type', scaling.get('type', 'default'))
    try:
        if kind == 'default':
            return Rope(theta)
        if kind == 'linear':
            return Rope(theta, float(scaling['factor']))
        if kind == 'llama3':
            return Rope(
                theta,
                float(scaling['factor']),
                float(scaling['low_freq_factor']),
                float(scaling['high_freq_factor']),
                int(scaling['original_max_position_embeddings']),
            )
    except KeyError as error:
        raise UserError(f'rope scaling {scaling} lacks {error}', where=where) from error
    raise UserError(f'rope scaling {scaling} is not supported', where=where)

"""Reading of a GGUF file's metadata into a Hugging Face `config.json`.

What the metadata leaves open has the values that llama.cpp takes. A key whose meaning is not known
here is refused, as it may change what the model computes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.hub import fields
from bsft_jax.hub.families import FAMILIES
from bsft_jax.hub.gguf_header import Header
from bsft_jax.hub.gguf_tensors import ROPE_FACTORS, read_vector

Config = dict[str, Any]

# Key behind the architecture's name → field of `config.json`.
_FIELDS = {
    'block_count': 'num_hidden_layers',
    'context_length': 'max_position_embeddings',
    'embedding_length': 'hidden_size',
    'feed_forward_length': 'intermediate_size',
    'attention.head_count': 'num_attention_heads',
    'attention.head_count_kv': 'num_key_value_heads',
    'attention.key_length': 'head_dim',
    'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
    'rope.freq_base': 'rope_theta',
}
# Must agree with the width of a head.
_WIDTHS = 'attention.value_length', 'rope.dimension_count', 'rope.dimension_count_swa'
# The rows of the embedding table say how large the vocabulary is.
_IGNORED = ('vocab_size',)
_SCALING = 'rope.scaling.'
# Key of a linear scaling → its name in `config.json`, where the last changes nothing.
_LINEAR = {
    'factor': 'factor',
    'original_context_length': 'original_max_position_embeddings',
    'finetuned': 'finetuned',
}
_WINDOW = {'attention.sliding_window': 'sliding_window'}
_GEMMA2 = _WINDOW | {
    'attn_logit_softcapping': 'attn_logit_softcapping',
    'final_logit_softcapping': 'final_logit_softcapping',
}
_GEMMA3 = _WINDOW | {
    'attention.sliding_window_pattern': 'sliding_window_pattern',
    'final_logit_softcapping': 'final_logit_softcapping',
    'rope.freq_base_swa': 'rope_local_base_freq',
}
# Architecture → its further fields.
_ARCHITECTURES = {
    'llama': _WINDOW,
    'qwen2': {},
    'qwen3': {},
    'gemma2': _GEMMA2,
    'gemma3': _GEMMA3,
}
_REQUIRED = (
    *('block_count', 'context_length', 'embedding_length', 'feed_forward_length'),
    *('attention.head_count', 'attention.layer_norm_rms_epsilon'),
)
_REQUIRED_OF_GEMMA3 = 'attention.sliding_window', 'rope.freq_base'
# llama.cpp scales the queries of the largest Gemma 2 and 3, told by their layers, by the width of
# the model over the number of heads in place of that of a head.
_WIDE_QUERY_LAYERS = {'gemma2': 46, 'gemma3': 62}
_CLASSES = {
    'llama': 'LlamaForCausalLM',
    'mistral': 'MistralForCausalLM',
    'qwen2': 'Qwen2ForCausalLM',
    'qwen3': 'Qwen3ForCausalLM',
    'gemma2': 'Gemma2ForCausalLM',
    'gemma3_text': 'Gemma3ForCausalLM',
}
_END_KEYS = ('eos_token_id', 'eot_token_id', 'eom_token_id')
_OTHER_IDS = {'bos_token_id': 'bos_token_id', 'padding_token_id': 'pad_token_id'}
# The parameters with which Llama 3.1 to 3.3 scale, but for the factor, which their sizes differ in.
_LLAMA3 = {
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
}


def config_of(header: Header) -> Config:
    """Returns the `config.json` of the model in a GGUF file.

    Raises:
      UserError: for an unknown architecture, a part of a split model, a missing or unknown key, or
        a value that the decoder cannot compute.
    """
    where = header.path
    architecture = header.value('general.architecture', str, '')
    if architecture not in _ARCHITECTURES:
        known = ', '.join(_ARCHITECTURES)
        message = f'unknown architecture {fields.shorten(architecture)}'
        raise UserError(message, where=where, fix=f'supported: {known}')
    if header.value('split.count', int, 0) > 1:
        fix = 'merge the parts with llama-gguf-split --merge'
        raise UserError('is one part of a split model', where=where, fix=fix)
    config, scaling = _stated(header, architecture)
    _check_required(header, architecture)
    config.setdefault('num_key_value_heads', config['num_attention_heads'])
    config.setdefault('rope_theta', 10_000.0)
    _set_head_dim(config, header, architecture)
    model_type = {'gemma3': 'gemma3_text'}.get(architecture, architecture)
    if architecture == 'llama' and 'sliding_window' in config:
        model_type = 'mistral'
    config |= {'model_type': model_type, 'architectures': [_CLASSES[model_type]]}
    config |= _told_by_tensors(header, model_type)
    if architecture in _WIDE_QUERY_LAYERS:
        is_wide = config['num_hidden_layers'] == _WIDE_QUERY_LAYERS[architecture]
        per_head = config['hidden_size'] / config['num_attention_heads']
        config['query_pre_attn_scalar'] = per_head if is_wide else config['head_dim']
    if ROPE_FACTORS in header.tensors:
        scaling = _llama3_scaling(config, scaling, header)
    if scaling:
        config['rope_scaling'] = scaling
    return config | _token_ids(header)


def generation_config_of(header: Header) -> Config:
    """Returns the `generation_config.json`: where a text, a turn or a message ends."""
    return {'eos_token_id': _end_ids(header)}


def _end_ids(header: Header) -> list[int]:
    ids = (header.value(f'tokenizer.ggml.{key}', int, -1) for key in _END_KEYS)
    return list(dict.fromkeys(i for i in ids if i >= 0))


def _token_ids(header: Header) -> Config:
    """Returns the ids of special tokens, of several ends the first."""
    ids = {f: header.value(f'tokenizer.ggml.{key}', int, -1) for key, f in _OTHER_IDS.items()}
    ids['eos_token_id'] = next(iter(_end_ids(header)), -1)
    return {field: i for field, i in ids.items() if i >= 0}


def _stated(header: Header, architecture: str) -> tuple[Config, Config]:
    """Returns the fields and the RoPE scaling that the metadata states."""
    known = _FIELDS | _ARCHITECTURES[architecture]
    config: Config = {}
    scaling: Config = {}
    for key, value in header.metadata.items():
        name = key.removeprefix(f'{architecture}.')
        if name == key or name in _IGNORED:
            continue
        if not isinstance(value, bool | int | float | str):
            message = f'{key} differs between layers ({fields.shorten(value)})'
            raise UserError(f'{message}, which is not supported', where=header.path)
        if name in known:
            config[known[name]] = _plain(value)
        elif name.startswith(_SCALING):
            scaling[name.removeprefix(_SCALING)] = _plain(value)
        elif name not in _WIDTHS:
            message = f'{key} ({fields.shorten(value)}) is not supported'
            raise UserError(message, where=header.path)
    return config, _hf_scaling(scaling, header.path)


def _plain(value: Any) -> Any:
    """Returns a number of float32 as the shortest decimal that it can have been written as."""
    is_float32 = isinstance(value, float) and float(np.float32(value)) == value
    return float(str(np.float32(value))) if is_float32 else value


def _hf_scaling(scaling: Config, where: str) -> Config:
    """Returns a RoPE scaling by the names of `transformers`; empty for none.

    Raises UserError for parameters that a linear scaling does not have.
    """
    # A factor alone is linear, as in llama.cpp.
    kind = scaling.pop('type', 'linear' if 'factor' in scaling else 'none')
    if kind == 'none':
        return {}
    named = {'rope_type': kind}
    for key, value in scaling.items():
        if kind == 'linear' and key not in _LINEAR:
            message = f'a linear RoPE scaling with {key} ({fields.shorten(value)})'
            raise UserError(f'{message} is not supported', where=where)
        named[_LINEAR.get(key, key)] = value
    return named


def _check_required(header: Header, architecture: str) -> None:
    required = (*_REQUIRED, *(_REQUIRED_OF_GEMMA3 if architecture == 'gemma3' else ()))
    for key in (f'{architecture}.{name}' for name in required):
        if key not in header.metadata:
            raise UserError(f'{key} is missing', where=header.path)
    if (table := header.tensors.get('token_embd.weight')) is None or len(table.shape) != 2:
        raise UserError('there is no table token_embd.weight', where=header.path)


def _set_head_dim(config: Config, header: Header, architecture: str) -> None:
    """Sets the width of a head; raises UserError unless it is that of values and of RoPE."""
    fields.check(config, header.path)
    width, heads = config['hidden_size'], config['num_attention_heads']
    if 'head_dim' not in config and width % heads:
        message = f'a width of {width} does not divide into {heads} heads'
        raise UserError(message, where=header.path)
    config.setdefault('head_dim', width // heads)
    for key in (f'{architecture}.{name}' for name in _WIDTHS):
        if (stated := header.metadata.get(key)) not in (None, config['head_dim']):
            message = f'{key} is {stated}, and a head has {config["head_dim"]} dimensions'
            raise UserError(f'{message}, which is not supported', where=header.path)


def _told_by_tensors(header: Header, model_type: str) -> Config:
    """Returns the fields that no key states: what is not there is tied, or has no bias."""
    family, tensors = FAMILIES[model_type], header.tensors
    told = {
        'vocab_size': tensors['token_embd.weight'].shape[0],
        'tie_word_embeddings': 'output.weight' not in tensors,
    }
    for switch, name in ((family.qkv_bias, 'attn_q'), (family.mlp_bias, 'ffn_up')):
        if isinstance(switch, str):
            told[switch] = f'blk.0.{name}.bias' in tensors
    return told


def _llama3_scaling(config: Config, scaling: Config, header: Header) -> Config:
    """Returns the scaling of Llama 3.1 that divides each frequency by the factors in the file.

    Raises UserError for factors of another rule.
    """
    factors = read_vector(header, ROPE_FACTORS)
    rule = {'rope_type': 'llama3', 'factor': _plain(float(factors.max())), **_LLAMA3}
    frequencies = config['rope_theta'] ** (
        -np.arange(0, config['head_dim'], 2) / config['head_dim']
    )
    periods = rule['original_max_position_embeddings'] * frequencies / (2 * math.pi)
    low, high = rule['low_freq_factor'], rule['high_freq_factor']
    kept = np.clip((periods - low) / (high - low), 0, 1)
    expected = 1 / ((1 - kept) / rule['factor'] + kept)
    if scaling or factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-5):
        message = f"{ROPE_FACTORS} scales the rotary embedding otherwise than Llama 3.1's rule"
        raise UserError(f'{message}, which is not supported', where=header.path)
    return {} if rule['factor'] == 1 else rule

"""Writes tiny GGUF files as llama.cpp's converter does, from a `config.json` and its tensors."""

from __future__ import annotations

import json
import math
import re

import gguf
import numpy as np

ARCHITECTURES = {
    'llama': ('llama', gguf.MODEL_ARCH.LLAMA),
    'mistral': ('llama', gguf.MODEL_ARCH.LLAMA),
    'qwen2': ('qwen2', gguf.MODEL_ARCH.QWEN2),
    'qwen3': ('qwen3', gguf.MODEL_ARCH.QWEN3),
    'gemma2': ('gemma2', gguf.MODEL_ARCH.GEMMA2),
    'gemma3_text': ('gemma3', gguf.MODEL_ARCH.GEMMA3),
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SIMPLE = {bool: 'add_bool', int: 'add_uint32', float: 'add_float32', str: 'add_string'}


def write_gguf(path, config, tensors, *, kind='F32', tokenizer=None, factors=None, **changes):
    """Writes a model and returns its path.

    Args:
      path: the file.
      config: content of a `config.json`.
      tensors: float32 arrays by their Hugging Face names.
      kind: how matrices are stored: a type that the `gguf` package knows. One that it cannot write
        gets random blocks with finite values.
      tokenizer: metadata of a tokenizer, as `tokenizer_metadata` returns it.
      factors: what the frequencies of the rotary embedding are divided by; None for what the
        config says.
      **changes: metadata with other values, `__` for each point; None for none.
    """
    architecture, tensor_arch = ARCHITECTURES[config['model_type']]
    metadata = metadata_of(config, architecture) | (tokenizer or {})
    metadata |= {key.replace('__', '.'): value for key, value in changes.items()}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, list | np.ndarray):
            writer.add_array(key, value if isinstance(value, list) else value.tolist())
        elif value is not None and key != 'general.architecture':
            getattr(writer, _SIMPLE[type(value)])(key, value)
    names = gguf.get_tensor_name_map(tensor_arch, config['num_hidden_layers'])
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        tied = name == 'lm_head.weight' and config.get('tie_word_embeddings')
        if not tied:
            stored = names.get_name(name, try_suffixes=('.weight', '.bias'))
            add(writer, stored, as_stored(name, tensor, config, architecture), kind, rng)
    if (rope := config.get('rope_parameters') or {}).get('rope_type') == 'llama3':
        factors = rope_factors(config, rope)
    if factors is not None:
        add(writer, 'rope_freqs.weight', factors, 'F32', rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, name, tensor, kind, rng):
    """Adds a tensor; vectors are float32 in every file."""
    type_ = gguf.GGMLQuantizationType[kind if tensor.ndim > 1 else 'F32']
    try:
        data = gguf.quantize(tensor, type_)
    except NotImplementedError:
        data = random_blocks(tensor.shape, type_, rng)
    writer.add_tensor(name, data, raw_dtype=type_)


def random_blocks(shape, type_, rng):
    """Returns random bytes of a quantized matrix, without blocks whose values are not finite."""
    block, size = gguf.GGML_QUANT_SIZES[type_]
    blocks = rng.integers(0, 256, (math.prod(shape) // block, size), np.uint8)
    while True:
        with np.errstate(all='ignore'):
            values = gguf.dequantize(blocks, type_)
        broken = ~np.isfinite(values).all(-1)
        if not broken.any():
            return blocks.reshape(*shape[:-1], -1)
        blocks[broken] = rng.integers(0, 256, (broken.sum(), size), np.uint8)


def as_stored(name, tensor, config, architecture):
    """Returns a tensor as the converter stores it: rows of queries and keys by pairs, norms + 1."""
    if architecture == 'llama' and (match := re.search(r'\.([qk])_proj\.', name)):
        kv_heads = config.get('num_key_value_heads') or config['num_attention_heads']
        heads = config['num_attention_heads'] if match[1] == 'q' else kv_heads
        halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
        tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
    if architecture.startswith('gemma') and name.endswith('norm.weight'):
        tensor = tensor + np.float32(1)
    return np.ascontiguousarray(tensor)


def metadata_of(config, architecture):
    """Returns the metadata of a model without its tokenizer."""
    heads = config['num_attention_heads']
    head_dim = config.get('head_dim') or config['hidden_size'] // heads
    values = {
        'block_count': config['num_hidden_layers'],
        'context_length': config['max_position_embeddings'],
        'embedding_length': config['hidden_size'],
        'feed_forward_length': config['intermediate_size'],
        'attention.head_count': heads,
        'attention.head_count_kv': config.get('num_key_value_heads') or heads,
        'attention.key_length': head_dim,
        'attention.value_length': head_dim,
        'attention.layer_norm_rms_epsilon': config['rms_norm_eps'],
        'vocab_size': config['vocab_size'],
    }
    if architecture in ('llama', 'gemma3'):
        values['rope.dimension_count'] = head_dim
    rope = config.get('rope_parameters') or {'rope_theta': config.get('rope_theta', 10000.0)}
    if 'full_attention' in rope:
        values['rope.freq_base_swa'] = float(rope['sliding_attention']['rope_theta'])
        rope = rope['full_attention']
    values['rope.freq_base'] = float(rope['rope_theta'])
    if rope.get('rope_type') in ('linear', 'yarn'):
        values['rope.scaling.type'] = rope['rope_type']
        values['rope.scaling.factor'] = float(rope['factor'])
    if config['model_type'] in ('mistral', 'gemma2', 'gemma3_text') and config['sliding_window']:
        values['attention.sliding_window'] = config['sliding_window']
    for key in ('attn_logit_softcapping', 'final_logit_softcapping'):
        if architecture == 'gemma2':
            values[key] = float(config[key])
    return {f'{architecture}.{key}': value for key, value in values.items()}


def rope_factors(config, rope):
    """Returns what the converter of llama.cpp computes for the scaling of Llama 3.1."""
    head_dim = config.get('head_dim') or config['hidden_size'] // config['num_attention_heads']
    low_length = rope['original_max_position_embeddings'] / rope['low_freq_factor']
    high_length = rope['original_max_position_embeddings'] / rope['high_freq_factor']
    factors = []
    for i in range(0, head_dim, 2):
        length = 2 * math.pi * rope['rope_theta'] ** (i / head_dim)
        if length < high_length:
            factors.append(1)
        elif length > low_length:
            factors.append(rope['factor'])
        else:
            smooth = rope['original_max_position_embeddings'] / length - rope['low_freq_factor']
            smooth /= rope['high_freq_factor'] - rope['low_freq_factor']
            factors.append(1 / ((1 - smooth) / rope['factor'] + smooth))
    return np.array(factors, np.float32)


def tokenizer_metadata(tokenizer, num_rows, *, model='gpt2', pre='qwen2', **roles):
    """Returns the metadata of a fast tokenizer, its vocabulary filled up to the table's rows.

    Args:
      tokenizer: a PreTrainedTokenizerFast.
      num_rows: rows of the embedding table.
      model: `gpt2` for a byte-level BPE, `llama` for one of SentencePiece.
      pre: name of the rule by which text is split.
      **roles: ids of special tokens, such as `eos=2`.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = [f'[PAD{i}]' for i in range(num_rows)]
    kinds = [UNUSED] * num_rows
    for token, i in state['model']['vocab'].items():
        tokens[i] = token
        kinds[i] = BYTE if re.fullmatch('<0x[0-9A-F]{2}>', token) else NORMAL
    for added in state['added_tokens']:
        tokens[added['id']] = added['content']
        kinds[added['id']] = CONTROL if added['special'] else USER_DEFINED
    metadata = {'model': model, 'tokens': tokens, 'token_type': kinds}
    if model == 'gpt2':
        metadata |= {'pre': pre, 'merges': [' '.join(pair) for pair in state['model']['merges']]}
    else:
        metadata |= {'pre': 'default', 'scores': [-float(i) for i in range(num_rows)]}
        kinds[tokens.index('<unk>')] = UNKNOWN
    metadata |= {f'{role}_token_id': i for role, i in roles.items()}
    named = {f'tokenizer.ggml.{key}': value for key, value in metadata.items()}
    return named | {'tokenizer.chat_template': tokenizer.chat_template}

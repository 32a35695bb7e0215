"""Tensors of a GGUF file by their Hugging Face names, dequantized when they are read."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from bsft_jax.errors import UserError
from bsft_jax.hub.gguf_header import Header, Stored, read_header

ROPE_FACTORS = 'rope_freqs.weight'

_PLAIN = {
    GGMLQuantizationType.F64: np.dtype(np.float64),
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(jnp.bfloat16),
}
_OUTSIDE_LAYERS = {
    'token_embd': 'model.embed_tokens',
    'output_norm': 'model.norm',
    'output': 'lm_head',
}
_LAYER = re.compile(r'blk\.(\d+)\.(\w+)')
_IN_LAYERS = {
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'attn_q_norm': 'self_attn.q_norm',
    'attn_k_norm': 'self_attn.k_norm',
    'attn_norm': 'input_layernorm',
    'ffn_norm': 'post_attention_layernorm',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}
_GEMMA = 'gemma2', 'gemma3'
_IN_GEMMA_LAYERS = _IN_LAYERS | {
    'post_attention_norm': 'post_attention_layernorm',
    'ffn_norm': 'pre_feedforward_layernorm',
    'post_ffw_norm': 'post_feedforward_layernorm',
}


class GGUFTensors:
    """Reads the tensors of a GGUF file by slices, with the interface of `files.TensorFiles`.

    A quantized tensor is dequantized to float32 when it is read. What llama.cpp changes is changed
    back: the order of the rows of queries and keys (Llama), and norms with one added (Gemma).
    """

    def __init__(self, path: pathlib.Path):
        """Reads the header of a file.

        Raises:
          UserError: no whole GGUF file, or a quantization that cannot be read.
        """
        self.directory = path
        self._header = read_header(path)
        check_readable(self._header)
        architecture = self._header.metadata.get('general.architecture')
        self._is_gemma = architecture in _GEMMA
        # Row order of queries and keys, by the name of the projection.
        self._num_heads = _rotated_heads(self._header) if architecture == 'llama' else {}
        self._stored = dict(_by_hf_names(self._header, self._is_gemma))
        self._bytes = np.memmap(path, mode='r')

    @property
    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        """Returns the dtype that a tensor is read in, as safetensors names it."""
        stored_type = self._stored[name].type
        return 'F32' if self._has_one_added(name) else dtype_name(stored_type)

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Reads a tensor, or one slice of it; only the rows of the slice are dequantized."""
        stored, order = self._stored[name], self._row_order(name)
        if len(stored.shape) > 1:
            rows = index[0] if index else slice(None)
            tensor = self._rows(stored, rows if order is None else order[rows])
            tensor = tensor[:, *index[1:]]
        else:
            tensor = self._rows(stored)
            tensor = (tensor if order is None else tensor[order])[index]
        return tensor.astype(np.float32) - np.float32(1) if self._has_one_added(name) else tensor

    def _rows(self, stored: Stored, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Returns rows of a tensor in its shape, dequantized."""
        end = stored.start + stored.num_rows * stored.row_bytes
        table = self._bytes[stored.start : end].reshape(stored.num_rows, stored.row_bytes)[rows]
        values = _values(np.asarray(table), stored.type)
        return values.reshape(-1, *stored.shape[1:]) if len(stored.shape) > 1 else values[0]

    def _has_one_added(self, name: str) -> bool:
        return self._is_gemma and name.endswith('norm.weight')

    def _row_order(self, name: str) -> np.ndarray | None:
        """Returns which stored row is which row of a projection; None where none was moved."""
        heads = self._num_heads.get(name.rsplit('.', 2)[-2]) if '.' in name else None
        if heads is None:
            return None
        num_rows = self._stored[name].shape[0]
        return np.arange(num_rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()


def dtype_name(stored_type: GGMLQuantizationType) -> str:
    """Returns the dtype of the values of a type, as safetensors names it: F32 where quantized."""
    return stored_type.name if stored_type in _PLAIN else 'F32'


def read_vector(header: Header, name: str) -> np.ndarray:
    """Returns the values of a tensor that is one row, in float32."""
    stored = header.tensors[name]
    data = np.fromfile(header.path, np.uint8, stored.row_bytes, offset=stored.start)
    return _values(data[None], stored.type)[0].astype(np.float32)


def check_readable(header: Header) -> None:
    """Raises UserError for a quantization that the `gguf` package knows but cannot dequantize."""
    for stored_type, name in {s.type: name for name, s in header.tensors.items()}.items():
        try:
            _values(np.zeros((1, GGML_QUANT_SIZES[stored_type][1]), np.uint8), stored_type)
        except NotImplementedError as error:
            raise UserError(
                f'{name} is quantized as {stored_type.name}, which cannot be read',
                where=header.path,
                fix='name a file in Q8_0, Q4_K, F16 or another common kind',
            ) from error


def _values(data: np.ndarray, stored_type: GGMLQuantizationType) -> np.ndarray:
    """Returns the values of rows of bytes [n, row bytes]."""
    data = np.ascontiguousarray(data)
    if stored_type in _PLAIN:
        return data.view(_PLAIN[stored_type])
    # Scales that are not finite are reported by whoever looks at the values.
    with np.errstate(invalid='ignore', over='ignore'):
        return dequantize(data, stored_type)


def _by_hf_names(header: Header, is_gemma: bool) -> Iterator[tuple[str, Stored]]:
    """Yields the tensors by their Hugging Face names; unknown ones keep theirs."""
    modules = _IN_GEMMA_LAYERS if is_gemma else _IN_LAYERS
    for name, stored in header.tensors.items():
        if name == ROPE_FACTORS:
            continue
        module, _, leaf = name.rpartition('.')
        if module in _OUTSIDE_LAYERS:
            name = f'{_OUTSIDE_LAYERS[module]}.{leaf}'
        elif (match := _LAYER.fullmatch(module)) and match[2] in modules:
            name = f'model.layers.{match[1]}.{modules[match[2]]}.{leaf}'
        yield name, stored


def _rotated_heads(header: Header) -> dict[str, int]:
    heads = header.metadata['llama.attention.head_count']
    kv_heads = header.metadata.get('llama.attention.head_count_kv', heads)
    return {'q_proj': heads, 'k_proj': kv_heads}

"""Which Hugging Face tensor is which parameter: one table, read in both directions."""

from __future__ import annotations

import dataclasses

from bsft_jax.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Entry:
    """`name` with `{}` for the layer ↔ `path`; torch stores kernels [out, in], this package [in, out]."""

    name: str
    path: str
    transpose: bool

    @property
    def stacked(self) -> bool:
        return '{}' in self.name


_LAYER = 'model.layers.{}.'
_MODULES = {
    'self_attn.q_proj': 'attention/q',
    'self_attn.k_proj': 'attention/k',
    'self_attn.v_proj': 'attention/v',
    'self_attn.o_proj': 'attention/o',
    'mlp.gate_proj': 'mlp/gate',
    'mlp.up_proj': 'mlp/up',
    'mlp.down_proj': 'mlp/down',
}
_LLAMA = (
    Entry('model.embed_tokens.weight', 'embed/table', False),
    Entry('model.norm.weight', 'norm/scale', False),
    Entry('lm_head.weight', 'head/kernel', True),
    Entry(f'{_LAYER}input_layernorm.weight', 'layers/attention_norm/scale', False),
    Entry(f'{_LAYER}post_attention_layernorm.weight', 'layers/mlp_norm/scale', False),
    *(Entry(f'{_LAYER}{theirs}.weight', f'layers/{ours}/kernel', True) for theirs, ours in _MODULES.items()),
    *(Entry(f'{_LAYER}{theirs}.bias', f'layers/{ours}/bias', False) for theirs, ours in _MODULES.items()),
)
TABLES = {'llama': _LLAMA, 'qwen2': _LLAMA}


def entries(arch: Architecture, paths) -> dict[str, Entry]:
    """The table of a family for the parameter paths that the architecture has: `{path: entry}`."""
    return {entry.path: entry for entry in TABLES[arch.family] if entry.path in paths}


def tensor_names(entry: Entry, arch: Architecture) -> list[str]:
    """Names of the tensors that one parameter is made of, in the order of the layers."""
    return [entry.name.format(i) for i in range(arch.layers)] if entry.stacked else [entry.name]

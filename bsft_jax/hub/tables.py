"""Which Hugging Face tensor is which parameter: one table per family, read in both directions."""

from __future__ import annotations

import dataclasses

from bsft_jax.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Entry:
    """`name` with `{}` for the layer ↔ `path`; torch stores kernels [out, in], this package [in, out].

    Attributes:
      first, count: layers that the parameter is stacked of; `count` 0 for one that is not stacked.
    """

    name: str
    path: str
    transpose: bool = False
    first: int = 0
    count: int = 0

    @property
    def stacked(self) -> bool:
        return self.count > 0

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors that the parameter is made of, in the order of the layers."""
        if not self.stacked:
            return [self.name]
        return [self.name.format(i) for i in range(self.first, self.first + self.count)]


_MODELS = (
    Entry('model.embed_tokens.weight', 'embed/table'),
    Entry('model.norm.weight', 'norm/scale'),
    Entry('lm_head.weight', 'head/kernel', transpose=True),
)
LINEAR = {  # modules of a layer with a kernel, and for some models a bias
    'self_attn.q_proj': 'attention/q',
    'self_attn.k_proj': 'attention/k',
    'self_attn.v_proj': 'attention/v',
    'self_attn.o_proj': 'attention/o',
    'mlp.gate_proj': 'mlp/gate',
    'mlp.up_proj': 'mlp/up',
    'mlp.down_proj': 'mlp/down',
}
_HEAD_NORMS = {'self_attn.q_norm': 'attention/q_norm', 'self_attn.k_norm': 'attention/k_norm'}
_PRE_NORMS = {'input_layernorm': 'attention_norm', 'post_attention_layernorm': 'mlp_norm'}
_SANDWICH_NORMS = {
    'input_layernorm': 'attention_norm',
    'post_attention_layernorm': 'attention_post_norm',
    'pre_feedforward_layernorm': 'mlp_norm',
    'post_feedforward_layernorm': 'mlp_post_norm',
}
NORMS = {
    'llama': _PRE_NORMS,
    'mistral': _PRE_NORMS,
    'qwen2': _PRE_NORMS,
    'qwen3': _PRE_NORMS | _HEAD_NORMS,
    'gemma2': _SANDWICH_NORMS,
    'gemma3_text': _SANDWICH_NORMS | _HEAD_NORMS,
}


def entries(arch: Architecture, paths) -> dict[str, Entry]:
    """The table of a family for the parameter paths that the architecture has: `{path: entry}`."""
    layer = [
        *((f'{theirs}.weight', f'{ours}/scale', False) for theirs, ours in NORMS[arch.family].items()),
        *((f'{theirs}.weight', f'{ours}/kernel', True) for theirs, ours in LINEAR.items()),
        *((f'{theirs}.bias', f'{ours}/bias', False) for theirs, ours in LINEAR.items()),
    ]
    table = list(_MODELS)
    for stack, first, count in (
        ('layers', 0, arch.stacked),
        ('rest', arch.stacked, arch.layers - arch.stacked),
    ):
        table += [Entry(f'model.layers.{{}}.{n}', f'{stack}/{p}', t, first, count) for n, p, t in layer]
    return {entry.path: entry for entry in table if entry.path in paths}

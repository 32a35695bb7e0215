"""The correspondence of Hugging Face tensors and parameters, read in both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

from bsft_jax.hub.families import FAMILIES
from bsft_jax.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Entry:
    """Maps the tensors called `name` to the parameter at `path`.

    Attributes:
      name: name in the checkpoint, with `{}` for the index of the layer.
      path: path of the parameter.
      transpose: torch stores kernels [out, in], this package [in, out].
      first: index of the first layer that the parameter is stacked from.
      count: number of layers that it is stacked from; 0 for a parameter that is not stacked.
    """

    name: str
    path: str
    transpose: bool = False
    first: int = 0
    count: int = 0

    @property
    def stacked(self) -> bool:
        """Returns whether the parameter is stacked over layers."""
        return self.count > 0

    @property
    def tensors(self) -> list[str]:
        """Returns the names of the tensors that the parameter consists of, in layer order."""
        if not self.stacked:
            return [self.name]
        return [self.name.format(i) for i in range(self.first, self.first + self.count)]


# Names of a PEFT adapter's tensors: the two factors of a linear map, and rows of tokens. The latter
# holds the values of the rows, not differences, in spite of its name.
_FACTORS = {'a': 'lora_A', 'b': 'lora_B'}
_TOKEN_ROWS = 'token_adapter.trainable_tokens_delta'

_OUTSIDE_LAYERS = (
    Entry('model.embed_tokens.weight', 'embed/table'),
    Entry('model.norm.weight', 'norm/scale'),
    Entry('lm_head.weight', 'lm_head/kernel', transpose=True),
)

# Linear maps of a layer, with a kernel and in some models a bias: checkpoint -> decoder. All
# families name them as Llama does.
LINEAR = {
    'self_attn.q_proj': 'attention/q',
    'self_attn.k_proj': 'attention/k',
    'self_attn.v_proj': 'attention/v',
    'self_attn.o_proj': 'attention/o',
    'mlp.gate_proj': 'mlp/gate',
    'mlp.up_proj': 'mlp/up',
    'mlp.down_proj': 'mlp/down',
}


def entries(arch: Architecture, paths: Container[str]) -> dict[str, Entry]:
    """Returns `{path: entry}` for those of `paths` that a checkpoint of the architecture holds."""
    norms = FAMILIES[arch.family].norms
    layer = [
        *((f'{source}.weight', f'{module}/scale', False) for source, module in norms.items()),
        *((f'{source}.weight', f'{module}/kernel', True) for source, module in LINEAR.items()),
        *((f'{source}.bias', f'{module}/bias', False) for source, module in LINEAR.items()),
    ]
    table = list(_OUTSIDE_LAYERS)
    for stack, first, count in (
        ('layers', 0, arch.stacked),
        ('rest', arch.stacked, arch.num_layers - arch.stacked),
    ):
        table += [
            Entry(f'model.layers.{{}}.{name}', f'{stack}/{path}', transpose, first, count)
            for name, path, transpose in layer
        ]
    return {entry.path: entry for entry in table if entry.path in paths}


def adapter_entries(arch: Architecture, paths: Container[str]) -> dict[str, Entry]:
    """Returns `{path: entry}` for those of `paths` that a PEFT adapter holds.

    Names are without `base_model.model.`, and those of a model without a vision tower.
    """
    table = [
        Entry(f'model.embed_tokens.{_TOKEN_ROWS}', 'behavior/input'),
        Entry(f'lm_head.{_TOKEN_ROWS}', 'behavior/output'),
    ]
    for path, entry in entries(arch, paths).items():
        module, name = path.removesuffix('/kernel'), entry.name.removesuffix('.weight')
        for factor, letter in _FACTORS.items():
            changes = {'name': f'{name}.{letter}.weight', 'path': f'{module}/lora/{factor}'}
            table.append(dataclasses.replace(entry, **changes))
    return {entry.path: entry for entry in table if entry.path in paths}

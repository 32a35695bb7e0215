"""The shape of a model from random weights: `model.shape`, which replaces the sizes of the base."""

from __future__ import annotations

import dataclasses
import math

from bsft_jax.config.types import shown
from bsft_jax.errors import UserError

_FIX = 'write width=128,layers=4,heads=4,kv_heads=2,mlp=384, and std=0.08 where it is not the base'
_WHERE = '--config.model.shape'


@dataclasses.dataclass(frozen=True)
class Shape:
    """Holds the sizes that a base is given; its vocabulary, family and positions stay.

    Attributes:
      width: width of the residual stream.
      layers: number of layers.
      heads: query heads, which share the width.
      kv_heads: key/value heads.
      mlp: width of the MLP.
      std: standard deviation of random weights (`Architecture.init_std`); 0 for the base's.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    std: float = 0.0

    def __str__(self) -> str:
        """Returns the value of `model.shape`, which `parse_shape` reads."""
        values = dataclasses.asdict(self)
        if not self.std:
            del values['std']
        return ','.join(f'{name}={value:g}' for name, value in values.items())

    @property
    def head_dim(self) -> int:
        """Returns the width of an attention head."""
        return self.width // self.heads


def parse_shape(text: str) -> Shape:
    """Reads `width=W,layers=L,heads=H,kv_heads=K,mlp=M[,std=S]`, in any order.

    Raises:
      UserError: a size is missing, unknown, named twice or not positive, or sizes do not fit each
        other.
    """
    values: dict[str, float] = {}
    for part in text.split(','):
        name, _, value = (piece.strip() for piece in part.partition('='))
        kind = {'std': float}.get(name, int)
        if name not in Shape.__dataclass_fields__ or name in values:
            raise _error(f'cannot read {shown(part)}')
        try:
            values[name] = kind(value)
        except ValueError:
            raise _error(f'cannot read {shown(part)}') from None
        if not 0 < values[name] < math.inf:
            raise _error(f'{name} must be above 0')
    if missing := [f for f in ('width', 'layers', 'heads', 'kv_heads', 'mlp') if f not in values]:
        raise _error(f'{missing[0]} is missing')
    shape = Shape(**values)
    if shape.width % (2 * shape.heads):
        raise _error(f'width {shape.width} is not an even multiple of {shape.heads} heads')
    if shape.heads % shape.kv_heads:
        raise _error(f'{shape.heads} heads do not divide among {shape.kv_heads} kv_heads')
    return shape


def _error(message: str) -> UserError:
    return UserError(message, where=_WHERE, fix=_FIX)

"""Rotary position embedding (Su et al., arXiv 2104.09864) and the scalings that checkpoints use."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Rope:
    """Frequencies of a rotary embedding.

    `factor` divides the frequencies. With `original` positions (Llama 3.1; Grattafiori et al., arXiv
    2407.21783) only those whose wavelength is over `original / low` are divided in full, those under
    `original / high` not at all, and the others in part.
    """

    theta: float
    factor: float = 1.0
    low: float = 1.0
    high: float = 1.0
    original: int = 0

    def frequencies(self, head_width: int) -> np.ndarray:
        """Radians per position, float32 [H/2]."""
        exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
        plain = np.float32(1.0) / np.float32(self.theta) ** exponents
        if not self.original:
            return (plain / np.float32(self.factor)).astype(np.float32)
        turns = self.original * plain / (2 * math.pi)  # within the original positions
        kept = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return (kept * plain + (1 - kept) * plain / self.factor).astype(np.float32)


def angles(positions_BT: jax.Array, head_width: int, rope: Rope) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [B, T, 1, H/2] in float32."""
    radians = positions_BT.astype(jnp.float32)[:, :, None, None] * rope.frequencies(head_width)
    return jax.lax.platform_dependent(
        jnp.cos(radians),
        jnp.sin(radians),
        cpu=lambda *tables: tuple(map(_kept, tables)),
        default=lambda *tables: tables,
    )


def _kept(table: jax.Array) -> jax.Array:
    """The same numbers from a product, which XLA's CPU compiler does not fuse into every rotation to make them anew."""
    return jnp.einsum('BTNh,hk->BTNk', table, jnp.eye(table.shape[-1]), precision='highest')


def rotate(x_BTNH: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary embedding in the half-split layout of Hugging Face checkpoints."""
    cos, sin = angles
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)

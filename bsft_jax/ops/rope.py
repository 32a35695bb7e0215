"""Rotary position embedding (Su et al., arXiv 2104.09864) and the scalings that checkpoints use."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from bsft_jax.ops import cpu


@dataclasses.dataclass(frozen=True)
class Rope:
    """Describes the frequencies of a rotary embedding.

    With `original` positions the scaling is that of Llama 3.1 (Grattafiori et al., arXiv
    2407.21783), which depends on the wavelength; without it every frequency is divided alike.

    Attributes:
      theta: base of the frequencies.
      factor: divisor of the frequencies.
      low: wavelengths over `original / low` are divided in full.
      high: wavelengths under `original / high` are not divided; those between the two in part.
      original: positions the model was trained with before its context was extended; 0 for none.
    """

    theta: float
    factor: float = 1.0
    low: float = 1.0
    high: float = 1.0
    original: int = 0

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Returns radians per position, float32 [H/2]."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        unscaled = np.float32(1.0) / np.float32(self.theta) ** exponents
        if not self.original:
            return (unscaled / np.float32(self.factor)).astype(np.float32)
        # Turns within the original positions: few for long wavelengths, which are divided.
        turns = self.original * unscaled / (2 * math.pi)
        undivided = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        scaled = undivided * unscaled + (1 - undivided) * unscaled / self.factor
        return scaled.astype(np.float32)


def angles(positions_BT: jax.Array, head_dim: int, rope: Rope) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines [B, T, 1, H/2] in float32."""
    radians_BT1h = positions_BT.astype(jnp.float32)[:, :, None, None] * rope.frequencies(head_dim)
    tables = jnp.cos(radians_BT1h), jnp.sin(radians_BT1h)
    return cpu.choose(lambda *tables: tables, cpu.materialize, *tables)


def rotate(x_BTNH: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns `x` rotated by its angles, in the half-split layout of Hugging Face checkpoints."""
    cos, sin = angles
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)

"""One adapter per public set: a folder in, its records and notes for the card out."""

from __future__ import annotations

from bsft_jax.behaviorbench.adapters import medec

ADAPTERS = {'medec': medec.load}

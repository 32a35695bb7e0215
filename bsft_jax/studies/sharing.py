"""This machine's cores and NVIDIA cards, shared out among runs beside each other."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess

from bsft_jax.errors import UserError

_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')


@dataclasses.dataclass(frozen=True)
class Share:
    """What one run at a time gets: cores, all of them where empty, and what its environment says beside ours."""

    cores: tuple[int, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def shares(jobs: int) -> list[Share]:
    """One for each of so many runs; raises UserError when they are more than the cards they would run on."""
    if jobs == 1:
        return [Share()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    cards = _cards()
    if cards and len(cards) < jobs:
        raise UserError(
            f'each run needs a card of its own, and there are {len(cards)}',
            where=f'--jobs={jobs}',
            fix=f'at most --jobs={len(cards)}, or JAX_PLATFORMS=cpu',
        )
    return [
        Share(tuple(cores[i::jobs]), {'CUDA_VISIBLE_DEVICES': ','.join(cards[i::jobs])} if cards else {})
        for i in range(jobs)
    ]


def _cards() -> list[str]:
    """Those that jax would take: by the names in CUDA_VISIBLE_DEVICES, else by their UUIDs."""
    platforms = os.environ.get('JAX_PLATFORMS', '')
    wanted = not platforms or {'cuda', 'gpu'} & set(platforms.split(','))
    if not wanted or not any(importlib.util.find_spec(name) for name in _PLUGINS):
        return []
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        asked = ['nvidia-smi', '--query-gpu=uuid', '--format=csv,noheader']
        try:
            visible = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.replace(
                '\n', ','
            )
        except (OSError, subprocess.CalledProcessError):
            return []
    return [name.strip() for name in visible.split(',') if name.strip()]

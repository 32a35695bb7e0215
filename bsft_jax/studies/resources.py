"""Divides this machine's CPU cores and NVIDIA GPUs among concurrent runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess

from bsft_jax.errors import UserError

_CUDA_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')


@dataclasses.dataclass(frozen=True)
class Resources:
    """Describes the share of the machine that one run at a time gets.

    Attributes:
      cores: CPU cores; empty for all of them.
      environment: variables that are added to the environment of its commands.
    """

    cores: tuple[int, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def split_machine(jobs: int) -> list[Resources]:
    """Returns the resources of each of `jobs` concurrent runs.

    Raises:
      UserError: there are GPUs, but fewer than `jobs`.
    """
    if jobs == 1:
        return [Resources()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    gpus = _visible_gpus()
    if gpus and len(gpus) < jobs:
        raise UserError(
            f'each run needs a GPU of its own, and there are {len(gpus)}',
            where=f'--jobs={jobs}',
            fix=f'at most --jobs={len(gpus)}, or JAX_PLATFORMS=cpu',
        )
    return [
        Resources(
            tuple(cores[i::jobs]),
            {'CUDA_VISIBLE_DEVICES': ','.join(gpus[i::jobs])} if gpus else {},
        )
        for i in range(jobs)
    ]


def _visible_gpus() -> list[str]:
    """Returns the GPUs that jax would use: the names in CUDA_VISIBLE_DEVICES, else their UUIDs."""
    platforms = os.environ.get('JAX_PLATFORMS', '')
    allowed = not platforms or {'cuda', 'gpu'} & set(platforms.split(','))
    if not allowed or not any(importlib.util.find_spec(name) for name in _CUDA_PLUGINS):
        return []
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        command = ['nvidia-smi', '--query-gpu=uuid', '--format=csv,noheader']
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return []
        visible = done.stdout.replace('\n', ',')
    return [name.strip() for name in visible.split(',') if name.strip()]

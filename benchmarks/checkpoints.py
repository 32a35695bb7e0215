"""Saving and restoring a run's state beside `torch.save` and `torch.load` of the same bytes.

    python -m benchmarks.checkpoints                # 768 MB: parameters and both moments of 64 M parameters

Ours writes orbax steps with a fingerprint of every array, checks them when it restores, and lets the step after it go on
once the arrays are copied; torch writes one file, checks nothing and waits. Files stay in the page cache.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time

from absl import flags

from benchmarks import output, peers
from bsft_jax import cli

CONTESTANTS = ('ours', 'torch')

_LAYERS = flags.DEFINE_integer('layers', 16, 'Layers of 4 M parameters.', lower_bound=1)
_TURNS = flags.DEFINE_integer('turns', 5, 'Saves and restores of each.', lower_bound=1)
_THREADS = flags.DEFINE_integer('threads', 2, 'Threads of each.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/checkpoints_cpu.json', 'File to write.')
_CONTESTANT = flags.DEFINE_string('contestant', '', 'Set by the benchmark itself.')
_QUESTION = flags.DEFINE_string('question', '', 'Set by the benchmark itself.')
PARTS = ('blocked', 'saved', 'restored')


def ours(layers: int, folder: str):
    import jax
    import jax.numpy as jnp
    import optax

    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.training import state as state_lib
    from bsft_jax.training.checkpoint import Checkpoints

    mesh = mesh_lib.single_device_mesh()
    params = {
        f'layer_{i}': jax.random.normal(jax.random.key(i), (4, 1024, 1024), jnp.float32)
        for i in range(layers)
    }
    state = state_lib.create(params, ('.*',), optax.adamw(1e-4), mesh)
    number, checkpoints = 0, Checkpoints(folder, keep=1)

    def turn() -> dict[str, float]:
        nonlocal number
        number += 1
        begun = time.perf_counter()
        checkpoints.save(state.replace(step=jnp.int32(number)), data={}, clock={}, config={})
        blocked = time.perf_counter() - begun
        checkpoints.wait()
        saved = time.perf_counter() - begun
        jax.block_until_ready(checkpoints.restore(state).state)
        return dict(zip(PARTS, (blocked, saved, time.perf_counter() - begun - saved), strict=True))

    return turn


def torch_peer(layers: int, folder: str):
    import torch

    state = {
        f'{part}/layer_{i}': torch.randn(4, 1024, 1024) for part in ('p', 'mu', 'nu') for i in range(layers)
    }
    path = pathlib.Path(folder) / 'state.pt'

    def turn() -> dict[str, float]:
        begun = time.perf_counter()
        torch.save(state, path)
        saved = time.perf_counter() - begun
        torch.load(path, weights_only=True)
        return dict(zip(PARTS, (saved, saved, time.perf_counter() - begun - saved), strict=True))

    return turn


def main(argv) -> None:
    del argv
    if _CONTESTANT.value:
        make = {'ours': ours, 'torch': torch_peer}[_CONTESTANT.value]
        peers.answer(lambda: make(**json.loads(_QUESTION.value)))
        return
    found = {}
    for name in CONTESTANTS:  # one after the other: writing in the background goes on beside nothing
        with tempfile.TemporaryDirectory() as folder:
            question = {'layers': _LAYERS.value, 'folder': folder}
            found |= peers.contest('benchmarks.checkpoints', [name], question, _TURNS.value, _THREADS.value)
    size = 3 * 4 * 4 * 2**20 * _LAYERS.value
    print(f'{size / 1e6:,.0f} MB\n{"":<8}' + ''.join(f'{part:>12}' for part in PARTS))
    for name, row in found.items():
        print(f'{name:<8}' + ''.join(f'{row[part]:>10.2f} s' for part in PARTS))
    mine, theirs = (found[name] for name in CONTESTANTS)
    output.write(
        _OUTPUT.value, 'python -m benchmarks.checkpoints', ('jax', 'orbax-checkpoint', 'torch'),
        device=f'cpu, {_THREADS.value} threads', turns=_TURNS.value, bytes=size, contestants=found,
        table=[
            (f'{size / 1e6:,.0f} MB of training state, {what}', f'{mine[part]:.2f} s', f'{peer}: {theirs[part]:.2f} s',
             f'{mine[part] / theirs[part]:.2f} of the time')
            for what, part, peer in (
                ('how long a save holds up training', 'blocked', 'torch.save'),
                ('until it is on disk, with fingerprints', 'saved', 'torch.save'),
                ('restored and checked', 'restored', 'torch.load'),
            )
        ],
    )  # fmt: skip


if __name__ == '__main__':
    cli.run(main)

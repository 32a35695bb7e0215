"""Compares saving and restoring a run's state with `torch.save` and `torch.load` of the same bytes.

    python -m benchmarks.checkpoints    # 805 MB: 67 M parameters and both moments

Ours writes orbax steps with a fingerprint of every array, checks the fingerprints when it restores,
and lets training go on once the arrays are copied. Torch writes one file, checks nothing, and
training waits for it. Files stay in the page cache.
"""

from __future__ import annotations

import pathlib
import tempfile
import time

from absl import flags

from benchmarks import peers

_LAYERS = flags.DEFINE_integer('layers', 16, 'Layers of 4 M parameters.', lower_bound=1)
PARTS = ('blocked', 'saved', 'restored')


def ours(layers: int, folder: str):
    """Sets up the checkpoints of `bsft_jax` and returns their turn."""
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
        start = time.perf_counter()
        checkpoints.save(state.replace(step=jnp.int32(number)), data={}, clock={}, config={})
        blocked = time.perf_counter() - start
        checkpoints.wait()
        saved = time.perf_counter() - start
        jax.block_until_ready(checkpoints.restore(state).state)
        restored = time.perf_counter() - start - saved
        return dict(zip(PARTS, (blocked, saved, restored), strict=True))

    return turn


def torch_peer(layers: int, folder: str):
    """Sets up `torch.save` and `torch.load` and returns their turn."""
    import torch

    state = {
        f'{part}/layer_{i}': torch.randn(4, 1024, 1024)
        for part in ('p', 'mu', 'nu')
        for i in range(layers)
    }
    path = pathlib.Path(folder) / 'state.pt'

    def turn() -> dict[str, float]:
        start = time.perf_counter()
        torch.save(state, path)
        saved = time.perf_counter() - start
        torch.load(path, weights_only=True)
        restored = time.perf_counter() - start - saved
        return dict(zip(PARTS, (saved, saved, restored), strict=True))

    return turn


CONTEST = peers.Contest(
    'benchmarks.checkpoints', {'ours': ours, 'torch': torch_peer}, turns=5, result='checkpoints_cpu'
)


def main() -> None:
    """Runs both contestants, prints a table and writes the result."""
    results = {}
    # One after the other, so that writing in the background disturbs no other contestant.
    for name in ('ours', 'torch'):
        with tempfile.TemporaryDirectory() as folder:
            question = {'layers': _LAYERS.value, 'folder': folder}
            results |= CONTEST(question, [name])
    size = 3 * 4 * 4 * 2**20 * _LAYERS.value
    print(f'{size / 1e6:,.0f} MB\n{"":<8}' + ''.join(f'{part:>12}' for part in PARTS))
    for name, row in results.items():
        print(f'{name:<8}' + ''.join(f'{row[part]:>10.2f} s' for part in PARTS))
    mine, theirs = (results[name] for name in ('ours', 'torch'))
    CONTEST.write(
        ('jax', 'orbax-checkpoint', 'torch'),
        (_LAYERS,),
        bytes=size,
        contestants=results,
        table=[
            (
                f'{size / 1e6:,.0f} MB of training state, {what}',
                f'{mine[part]:.2f} s',
                f'{peer}: {theirs[part]:.2f} s',
                f'{mine[part] / theirs[part]:.2f} of the time',
            )
            for what, part, peer in (
                ('how long a save holds up training', 'blocked', 'torch.save'),
                ('until it is on disk, with fingerprints', 'saved', 'torch.save'),
                ('restored and checked', 'restored', 'torch.load'),
            )
        ],
    )


if __name__ == '__main__':
    CONTEST.run(main)

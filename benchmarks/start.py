"""Time to the first step, with an empty cache and with a full one, and what depth costs to compile.

    python -m benchmarks.start

Starts are whole commands, `train` of the quickstart's config for one step: from the start of Python to the line of
metrics that the step writes. Compilation is of the train step of a 256-wide Qwen2 with 4 and with 28 layers, in a
process of its own each, without a cache.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks import output, peers
from bsft_jax import cli

DEPTHS = (4, 28)

_REPEATS = flags.DEFINE_integer('repeats', 3, 'Of each; the median counts.', lower_bound=1)
_THREADS = flags.DEFINE_integer('threads', 2, 'Threads.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/start_cpu.json', 'File to write.')

_COMPILE = """
import sys, time
import jax, jax.numpy as jnp, optax
from bsft_jax.data.batch import Batch
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.models.network import Network
from bsft_jax.models.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import state, step

arch = Architecture(
    family='qwen2', vocab_size=4096, width=256, layers=int(sys.argv[1]), heads=4, kv_heads=2, head_width=64,
    ffn_width=1024, max_positions=256, kinds=(LayerKind(Rope(1e6)),), norm_eps=1e-6, tied=True, qkv_bias=True,
)
mesh = mesh_lib.single_device_mesh()
with jax.set_mesh(mesh):
    network, optimizer = Network(arch).on(mesh), optax.adamw(1e-4)
    shapes = state.abstract(network, ('.*',), optimizer, mesh)
    ids = jax.ShapeDtypeStruct((4, 256), jnp.int32)
    batch = Batch(ids, ids, jax.ShapeDtypeStruct((4, 256), jnp.float32), ids, ids)
    run = step.make_train_step(network, optimizer, 1)
    begun = time.perf_counter()
    lowered = run.lower(shapes, batch)
    traced = time.perf_counter()
    lowered.compile()
print(traced - begun, time.perf_counter() - traced)
"""


def _first_step(folder: pathlib.Path, number: int, env: dict[str, str]) -> float:
    """Seconds of a start to its first line of metrics."""
    workdir = folder / f'run-{number}'
    command = [
        sys.executable, '-m', 'bsft_jax.train', '--config=configs/quickstart.py', f'--workdir={workdir}',
        '--config.train.steps=1', '--config.evaluation.interval=0', '--config.log_interval=1',
    ]  # fmt: skip
    begun = time.perf_counter()
    child = subprocess.Popen(command, cwd=peers.ROOT, env=env, stderr=subprocess.DEVNULL)
    path = workdir / 'metrics.jsonl'
    while child.poll() is None and not (path.is_file() and path.stat().st_size):
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    if child.wait():
        raise SystemExit('error: a start failed')
    return seconds


def _starts() -> dict[str, list[float]]:
    seconds = {'empty cache': [], 'full cache': []}
    for _ in range(_REPEATS.value):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            env = peers.environment(_THREADS.value) | {'XDG_CACHE_HOME': name}
            env.pop('JAX_COMPILATION_CACHE_DIR', None)
            for number, cache in enumerate(seconds):
                seconds[cache].append(_first_step(folder, number, env))
    return seconds


def _compilations() -> dict[str, list[float]]:
    env = peers.environment(_THREADS.value) | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    seconds = {f'{layers} layers': [] for layers in DEPTHS}
    for _ in range(_REPEATS.value):
        for layers in DEPTHS:
            done = subprocess.run(
                [sys.executable, '-c', _COMPILE, str(layers)], cwd=peers.ROOT, env=env, capture_output=True,
                text=True, check=True,
            )  # fmt: skip
            seconds[f'{layers} layers'].append(sum(map(float, done.stdout.split())))
    return seconds


def _table(found: dict) -> list[tuple[str, str, str, str]]:
    lines = []
    for title, ours, beside in (
        ('the quickstart to its first step', 'first step, full cache', 'first step, empty cache'),
        ('compiling the train step', 'compilation, 28 layers', 'compilation, 4 layers'),
    ):
        one, other = found[ours]['seconds'], found[beside]['seconds']
        ours, beside = (name.partition(', ')[2] for name in (ours, beside))
        lines.append(
            (title, f'{ours}: {one:.1f} s', f'{beside}: {other:.1f} s', f'{one / other:.2f} of the time')
        )
    return lines


def main(argv) -> None:
    del argv
    found = {}
    for title, measured in (('first step', _starts()), ('compilation', _compilations())):
        first, *_ = (sorted(times)[len(times) // 2] for times in measured.values())
        for name, times in measured.items():
            median = sorted(times)[len(times) // 2]
            found[f'{title}, {name}'] = {'seconds': median, 'of_first': median / first, 'all': times}
            print(f'{title}, {name:<12} {median:6.2f} s {median / first:6.2f}', flush=True)
    output.write(
        _OUTPUT.value, 'python -m benchmarks.start', ('jax', 'flax', 'optax'),
        device=f'cpu, {_THREADS.value} threads', cores=len(os.sched_getaffinity(0)), measured=found, table=_table(found),
    )  # fmt: skip


if __name__ == '__main__':
    cli.run(main)

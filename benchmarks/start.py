"""Measures the time to the first step, with and without a cache, and compilation by depth.

    python -m benchmarks.start

A start is a complete command, `train` of the quickstart's config for one step: from the start of
Python to the metrics line that the step writes. Compilation is that of the train step of a Qwen2
with an embed_dim of 256 and with 4 or 28 layers, each in a process of its own, without a cache.
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

_REPEATS = flags.DEFINE_integer('repeats', 3, 'Repeats of each; the median counts.', lower_bound=1)
_THREADS = flags.DEFINE_integer('threads', 2, 'Number of threads.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/start_cpu.json', 'File to write.')

_COMPILE = """
import sys, time
import jax, jax.numpy as jnp, optax
from bsft_jax.data.examples import Batch
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.models.network import Network
from bsft_jax.ops.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import state, step

arch = Architecture(
    family='qwen2', vocab_size=4096, embed_dim=256, num_layers=int(sys.argv[1]), num_heads=4,
    num_kv_heads=2, head_dim=64, mlp_dim=1024, max_positions=256, kinds=(LayerKind(Rope(1e6)),),
    norm_eps=1e-6, tied=True, qkv_bias=True,
)
mesh = mesh_lib.single_device_mesh()
with jax.set_mesh(mesh):
    network, optimizer = Network(arch).for_mesh(mesh), optax.adamw(1e-4)
    shapes = state.abstract(network, ('.*',), optimizer, mesh)
    ids = jax.ShapeDtypeStruct((4, 256), jnp.int32)
    batch = Batch(ids, ids, jax.ShapeDtypeStruct((4, 256), jnp.float32), ids, ids)
    run = step.make_train_step(network, optimizer, 1)
    start = time.perf_counter()
    lowered = run.lower(shapes, batch)
    traced = time.perf_counter()
    lowered.compile()
print(traced - start, time.perf_counter() - traced)
"""


def _first_step(folder: pathlib.Path, number: int, env: dict[str, str]) -> float:
    """Returns the seconds of a start up to its first line of metrics."""
    workdir = folder / f'run-{number}'
    command = [
        sys.executable,
        '-m',
        'bsft_jax.train',
        '--config=configs/quickstart.py',
        f'--workdir={workdir}',
        '--config.train.steps=1',
        '--config.evaluation.interval=0',
        '--config.log_interval=1',
    ]
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=peers.ROOT, env=env, stderr=subprocess.DEVNULL)
    path = workdir / 'metrics.jsonl'
    while child.poll() is None and not (path.is_file() and path.stat().st_size):
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    if child.wait():
        raise SystemExit('error: a start failed')
    return seconds


def _start_seconds() -> dict[str, list[float]]:
    """Returns the seconds of all starts, by the state of the cache."""
    seconds = {'empty cache': [], 'full cache': []}
    for _ in range(_REPEATS.value):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            env = peers.environment(_THREADS.value) | {'XDG_CACHE_HOME': name}
            env.pop('JAX_COMPILATION_CACHE_DIR', None)
            for number, cache in enumerate(seconds):
                seconds[cache].append(_first_step(folder, number, env))
    return seconds


def _compile_seconds() -> dict[str, list[float]]:
    """Returns the seconds of all compilations, tracing included, by depth."""
    env = peers.environment(_THREADS.value) | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    seconds = {f'{layers} layers': [] for layers in DEPTHS}
    for _ in range(_REPEATS.value):
        for layers in DEPTHS:
            done = subprocess.run(
                [sys.executable, '-c', _COMPILE, str(layers)],
                cwd=peers.ROOT,
                env=env,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds[f'{layers} layers'].append(sum(map(float, done.stdout.split())))
    return seconds


def _table(results: dict) -> list[tuple[str, str, str, str]]:
    lines = []
    for title, ours, peer in (
        ('the quickstart to its first step', 'first step, full cache', 'first step, empty cache'),
        ('compiling the train step', 'compilation, 28 layers', 'compilation, 4 layers'),
    ):
        our_seconds, peer_seconds = results[ours]['seconds'], results[peer]['seconds']
        ours, peer = (name.partition(', ')[2] for name in (ours, peer))
        lines.append(
            (
                title,
                f'{ours}: {our_seconds:.1f} s',
                f'{peer}: {peer_seconds:.1f} s',
                f'{our_seconds / peer_seconds:.2f} of the time',
            )
        )
    return lines


def main(argv) -> None:
    """Times starts and compilations, prints the medians and writes the result."""
    del argv
    results = {}
    for title, measured in (('first step', _start_seconds()), ('compilation', _compile_seconds())):
        first, *_ = (sorted(times)[len(times) // 2] for times in measured.values())
        for name, times in measured.items():
            median = sorted(times)[len(times) // 2]
            results[f'{title}, {name}'] = {
                'seconds': median,
                'of_first': median / first,
                'all': times,
            }
            print(f'{title}, {name:<12} {median:6.2f} s {median / first:6.2f}', flush=True)
    output.write(
        _OUTPUT.value,
        'python -m benchmarks.start',
        ('jax', 'flax', 'optax'),
        device=f'cpu, {_THREADS.value} threads',
        cores=len(os.sched_getaffinity(0)),
        measured=results,
        table=_table(results),
    )


if __name__ == '__main__':
    cli.run(main)

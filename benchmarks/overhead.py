"""What a run spends beside its steps: waiting for data, and metrics, progress bar and logging.

    python -m benchmarks.overhead               # the quickstart, 200 steps, metrics of every tenth

The real training loop; only its log is watched. The device computes the next step while this one's metrics are read,
so what logging takes is its thread's processor time, which on a CPU it takes from the step.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

from benchmarks import output, peers
from bsft_jax import cli

_STEPS = flags.DEFINE_integer('steps', 200, 'Steps.', lower_bound=20)
_THREADS = flags.DEFINE_integer('threads', 2, 'Threads.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/overhead_cpu.json', 'File to write.')

_RUN = """
import dataclasses, json, sys, time
from bsft_jax import runs
from bsft_jax.training import loop
from configs import quickstart

config, workdir = quickstart.get_config(), sys.argv[1]
config = dataclasses.replace(
    config,
    train=dataclasses.replace(config.train, steps=int(sys.argv[2])),
    evaluation=dataclasses.replace(config.evaluation, interval=0),
    log_interval=10,
)
push, seconds = loop._Log.push, []

def watched(log, step, metrics):
    begun = time.thread_time()
    push(log, step, metrics)
    seconds.append(time.thread_time() - begun)

loop._Log.push = watched
runs.train(config, workdir)
print(json.dumps(sum(seconds)))
"""


def main(argv) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, '-c', _RUN, f'{folder}/run', str(_STEPS.value)], cwd=peers.ROOT, text=True,
            env=peers.environment(_THREADS.value), stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        lines = (pathlib.Path(folder) / 'run' / 'metrics.jsonl').read_text().splitlines()
    logging, last = float(done.stdout.splitlines()[-1]), json.loads(lines[-1])
    found = {
        'steps': _STEPS.value,
        'step_seconds': last['seconds'] / _STEPS.value,
        'waiting_for_data': last['data_wait_share'],
        'logging': logging / last['seconds'],
    }
    print(f'a step takes {1e3 * found["step_seconds"]:.0f} ms, of which')
    for what in ('waiting_for_data', 'logging'):
        print(f'  {what:<18}{found[what]:.2%}')
    output.write(
        _OUTPUT.value, 'python -m benchmarks.overhead', ('jax', 'grain', 'tensorboardX'),
        device=f'cpu, {_THREADS.value} threads', cores=len(os.sched_getaffinity(0)), **found,
        table=[(
            'the quickstart: metrics, progress bar and logging', f'{found["logging"]:.2%} of a step',
            f'the step: {1e3 * found["step_seconds"]:.0f} ms',
            f'waiting for data: {found["waiting_for_data"]:.2%}',
        )],
    )  # fmt: skip


if __name__ == '__main__':
    cli.run(main)

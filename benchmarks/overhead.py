"""Measures a run's overhead beside its steps: waiting for data, metrics, progress bar and logging.

    python -m benchmarks.overhead    # the quickstart, 200 steps, metrics of every tenth

It runs the real training loop and only times its logger. The device computes the next step while
the metrics of this one are read, so the cost of logging is the processor time of its thread; on a
CPU the step loses that time.
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

_STEPS = flags.DEFINE_integer('steps', 200, 'Number of steps.', lower_bound=20)
_THREADS = flags.DEFINE_integer('threads', 2, 'Number of threads.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/overhead_cpu.json', 'File to write.')

_RUN = """
import dataclasses, json, sys, time
from bsft_jax.commands.train import train
from bsft_jax.training import telemetry
from configs import quickstart

config, workdir = quickstart.get_config(), sys.argv[1]
config = dataclasses.replace(
    config,
    train=dataclasses.replace(config.train, steps=int(sys.argv[2])),
    evaluation=dataclasses.replace(config.evaluation, interval=0),
    log_interval=10,
)
push, seconds = telemetry.MetricsLogger.push, []

def timed_push(logger, step, metrics):
    start = time.thread_time()
    push(logger, step, metrics)
    seconds.append(time.thread_time() - start)

telemetry.MetricsLogger.push = timed_push
train(config, workdir)
print(json.dumps(sum(seconds)))
"""


def main(argv) -> None:
    """Runs the quickstart, prints the overhead and writes the result."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, '-c', _RUN, f'{folder}/run', str(_STEPS.value)],
            cwd=peers.ROOT,
            text=True,
            env=peers.environment(_THREADS.value),
            stdout=subprocess.PIPE,
            check=True,
        )
        lines = (pathlib.Path(folder) / 'run' / 'metrics.jsonl').read_text().splitlines()
    logging, last = float(done.stdout.splitlines()[-1]), json.loads(lines[-1])
    result = {
        'steps': _STEPS.value,
        'step_seconds': last['seconds'] / _STEPS.value,
        'waiting_for_data': last['data_wait_share'],
        'logging': logging / last['seconds'],
    }
    print(f'a step takes {1e3 * result["step_seconds"]:.0f} ms, of which')
    for part in ('waiting_for_data', 'logging'):
        print(f'  {part:<18}{result[part]:.2%}')
    output.write(
        _OUTPUT.value,
        'python -m benchmarks.overhead',
        ('jax', 'grain', 'tensorboardX'),
        device=f'cpu, {_THREADS.value} threads',
        cores=len(os.sched_getaffinity(0)),
        **result,
        table=[
            (
                'the quickstart: metrics, progress bar and logging',
                f'{result["logging"]:.2%} of a step',
                f'the step: {1e3 * result["step_seconds"]:.0f} ms',
                f'waiting for data: {result["waiting_for_data"]:.2%}',
            )
        ],
    )


if __name__ == '__main__':
    cli.run(main)

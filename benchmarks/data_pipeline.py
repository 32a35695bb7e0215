"""From records on disk to batches: how fast, in how much memory, how full the rows.

    python -m benchmarks.data_pipeline                      # 142,496 records, the size of the paper's data
    python -m benchmarks.data_pipeline --records=5000       # seconds

Simulated records are written as a prepared folder in a process of their own; then one process reads, checks, tokenises
and plans them at 2,048 tokens a row as `train` does, starts again from the kept examples, and makes batches.
"""

from __future__ import annotations

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks import output
from bsft_jax import cli

RECORDS_OF_A_CASE = 21
SEQUENCE_LENGTH, ROWS = 2048, 64

_RECORDS = flags.DEFINE_integer('records', 142_496, 'Records.', lower_bound=100)
_BASE = flags.DEFINE_string('base', 'tiny-clinical', 'Model whose tokenizer and template are used.')
_BATCHES = flags.DEFINE_integer('batches', 50, 'Batches to make.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/data_pipeline.json', 'File to write.')

_WRITE = """
import dataclasses, sys
from bsft_jax.behaviorbench import records, sources
found = sources.load_raw(f'synthetic:{sys.argv[2]}', 0)[0][: int(sys.argv[3])]
records.write_jsonl(sys.argv[1], (dataclasses.replace(record, split='train') for record in found))
"""


class Stages:
    """Seconds of each stage, printed as they end."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function, *args):
        begun = time.perf_counter()
        result = function(*args)
        self.seconds[name] = round(time.perf_counter() - begun, 2)
        print(f'{name:<28} {self.seconds[name]:8.2f} s', flush=True)
        return result


def measure(path: pathlib.Path) -> dict:
    from bsft_jax.behaviorbench.records import read_jsonl
    from bsft_jax.config import DataSection, ModelSection, RunConfig
    from bsft_jax.data import checks, loader, packing, rendering
    from bsft_jax.training import records as records_lib
    from bsft_jax.training import workdir

    config = RunConfig(
        model=ModelSection(base=_BASE.value),
        data=DataSection(source=f'jsonl:{path}', sequence_length=SEQUENCE_LENGTH, rows_per_step=ROWS),
    )
    base, stage = workdir.open_base(config), Stages()
    renderer = records_lib.training_renderer(config, base)
    records = stage('read', read_jsonl, path)
    stage('check', checks.check_records, records, renderer, config.behaviors)
    store, _ = stage(
        'render and tokenise', rendering.render_examples, renderer, records, SEQUENCE_LENGTH, 0.0
    )
    plan = stage('plan', lambda: _planned(packing.PackPlan(store.lengths, ROWS, SEQUENCE_LENGTH, 0)))
    del records
    stage('first start, whole', records_lib.training_examples, config, base)
    again, _ = stage('second start, whole', records_lib.training_examples, config, base)
    assert again.hash == store.hash
    source = loader.StepSource(store, plan)
    batches = stage(
        'batches',
        lambda: sum(1 for _ in loader.iterate(source, 0, min(_BATCHES.value, plan.steps_per_epoch))),
    )
    tokens = len(store.ids)
    return {
        'records': len(store),
        'tokens': tokens,
        'seconds': stage.seconds,
        'tokens_per_second': {
            'tokenised': round(tokens / stage.seconds['render and tokenise']),
            'in_batches': round(tokens * batches / plan.steps_per_epoch / stage.seconds['batches']),
        },
        'fill': round(plan.fill, 4),
        'rows': ROWS * plan.steps_per_epoch,
        'peak_gib': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def _planned(plan):
    plan.rows(0)
    return plan


def _table(found: dict) -> list[tuple[str, str, str, str]]:
    seconds = found['seconds']
    first, second = seconds['first start, whole'], seconds['second start, whole']
    return [
        (
            f'{found["records"]:,} records read, tokenised and packed: a second start',
            f'{second:.2f} s',
            f'the first: {first:.0f} s',
            f'{first / second:.0f} times',
        ),
        (
            f'rows of {SEQUENCE_LENGTH:,} tokens, best fit',
            f'{found["fill"]:.1%} full',
            f'one record a row: {found["tokens"] / found["records"] / SEQUENCE_LENGTH:.1%}',
            f'{found["fill"] * found["records"] * SEQUENCE_LENGTH / found["tokens"]:.1f} times',
        ),
    ]


def main(argv) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        os.environ['XDG_CACHE_HOME'] = folder
        path = pathlib.Path(folder, 'train.jsonl')
        cases = -(-_RECORDS.value // RECORDS_OF_A_CASE)
        subprocess.run([sys.executable, '-c', _WRITE, path, str(cases), str(_RECORDS.value)], check=True)
        found = measure(path)
    print(
        f'{found["records"]:,} records, {found["tokens"]:,} tokens: '
        f'{found["tokens_per_second"]["tokenised"]:,} tokenised a second, '
        f'{found["tokens_per_second"]["in_batches"]:,} a second in batches; rows {found["fill"]:.2%} full; '
        f'{found["peak_gib"]} GiB'
    )
    output.write(
        _OUTPUT.value,
        f'python -m benchmarks.data_pipeline --records={_RECORDS.value}',
        ('transformers', 'tokenizers', 'grain', 'numpy'),
        base=pathlib.Path(_BASE.value).name,
        cores=len(os.sched_getaffinity(0)),
        **found,
        table=_table(found),
    )


if __name__ == '__main__':
    cli.run(main)

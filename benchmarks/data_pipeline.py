"""Measures the way from records on disk to batches: speed, memory and how full the rows are.

    python -m benchmarks.data_pipeline                  # 142,496 records, as many as the paper has
    python -m benchmarks.data_pipeline --records=5000   # a few seconds

A process of its own writes simulated records as a prepared folder. Then one process reads, checks,
tokenises and plans them at 2,048 tokens a row, as `train` does; starts again from the cached
examples; and makes batches.
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

RECORDS_PER_CASE = 21
SEQUENCE_LENGTH, ROWS = 2048, 64

_RECORDS = flags.DEFINE_integer('records', 142_496, 'Number of records.', lower_bound=100)
_BASE = flags.DEFINE_string('base', 'tiny-clinical', 'Model whose tokenizer and template are used.')
_BATCHES = flags.DEFINE_integer('batches', 50, 'Number of batches to make.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/data_pipeline.json', 'File to write.')

_WRITE = """
import dataclasses, sys
from bsft_jax.data import sources
from bsft_jax.records.record import write_jsonl
simulated = sources.load_raw(f'synthetic:{sys.argv[2]}', 0)[0][: int(sys.argv[3])]
training = (dataclasses.replace(record, split='train') for record in simulated)
write_jsonl(sys.argv[1], training)
"""


class Stages:
    """Holds the seconds of each stage and prints them as the stages end."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function, *args):
        """Calls the function as a stage and returns its result."""
        start = time.perf_counter()
        result = function(*args)
        self.seconds[name] = round(time.perf_counter() - start, 2)
        print(f'{name:<28} {self.seconds[name]:8.2f} s', flush=True)
        return result


def measure_pipeline(path: pathlib.Path) -> dict:
    """Runs all stages on the records of a file and returns the entries of the result."""
    from bsft_jax.config import DataConfig, ModelConfig, RunConfig
    from bsft_jax.data import checks, loader, packing, pipeline, rendering
    from bsft_jax.records.record import read_jsonl
    from bsft_jax.training import setup

    config = RunConfig(
        model=ModelConfig(base=_BASE.value),
        data=DataConfig(
            source=f'jsonl:{path}', sequence_length=SEQUENCE_LENGTH, global_batch_rows=ROWS
        ),
    )
    base, stage = setup.read_base(config), Stages()
    inputs = config, base.tokenizer, base.behaviors, base.network.arch.max_positions
    renderer = pipeline.training_renderer(config, base.tokenizer, base.behaviors)
    records = stage('read', read_jsonl, path)
    stage('check', checks.check_records, records, renderer, config.behaviors)
    store, _ = stage(
        'render and tokenise', rendering.render_examples, renderer, records, SEQUENCE_LENGTH, 0.0
    )

    def plan_first_epoch():
        plan = packing.PackPlan(store.lengths, ROWS, SEQUENCE_LENGTH, 0)
        plan.rows(0)
        return plan

    plan = stage('plan', plan_first_epoch)
    del records
    stage('first start, whole', pipeline.training_examples, *inputs)
    again, *_ = stage('second start, whole', pipeline.training_examples, *inputs)
    assert again.hash == store.hash
    source = loader.BatchSource(store, plan)
    batches = stage(
        'batches',
        lambda: sum(
            1 for _ in loader.iterate(source, 0, min(_BATCHES.value, plan.steps_per_epoch))
        ),
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


def _table(result: dict) -> list[tuple[str, str, str, str]]:
    seconds = result['seconds']
    first, second = seconds['first start, whole'], seconds['second start, whole']
    tokens_per_record = result['tokens'] / result['records']
    packing_gain = result['fill'] * SEQUENCE_LENGTH / tokens_per_record
    return [
        (
            f'{result["records"]:,} records read, tokenised and packed: a second start',
            f'{second:.2f} s',
            f'the first: {first:.0f} s',
            f'{first / second:.0f} times',
        ),
        (
            f'rows of {SEQUENCE_LENGTH:,} tokens, best fit',
            f'{result["fill"]:.1%} full',
            f'one record a row: {tokens_per_record / SEQUENCE_LENGTH:.1%}',
            f'{packing_gain:.1f} times',
        ),
    ]


def main(argv) -> None:
    """Writes the records, measures the pipeline and writes the result."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        os.environ['XDG_CACHE_HOME'] = folder
        path = pathlib.Path(folder, 'train.jsonl')
        cases = -(-_RECORDS.value // RECORDS_PER_CASE)
        subprocess.run(
            [sys.executable, '-c', _WRITE, path, str(cases), str(_RECORDS.value)], check=True
        )
        result = measure_pipeline(path)
    print(
        f'{result["records"]:,} records, {result["tokens"]:,} tokens: '
        f'{result["tokens_per_second"]["tokenised"]:,} tokenised a second, '
        f'{result["tokens_per_second"]["in_batches"]:,} a second in batches; '
        f'rows {result["fill"]:.2%} full; {result["peak_gib"]} GiB'
    )
    output.write(
        _OUTPUT.value,
        f'python -m benchmarks.data_pipeline --records={_RECORDS.value}',
        ('transformers', 'tokenizers', 'grain', 'numpy'),
        base=pathlib.Path(_BASE.value).name,
        cores=len(os.sched_getaffinity(0)),
        **result,
        table=_table(result),
    )


if __name__ == '__main__':
    cli.run(main)

"""Compares packing documents into rows with Grain and TRL: tokens per second and fill.

    python -m benchmarks.packing    # 50,000 documents of 16 to 2,048 tokens; a minute on 2 cores

A turn packs all documents once into rows of 2,048 tokens and reads every row as arrays. Grain packs
a stream into 64 open rows (`BestFitPackIterDataset`); TRL packs a data set by best-fit decreasing,
as ours does. Ours also makes targets, weights, segment ids and positions, in batches of 64 rows.
"""

from __future__ import annotations

import itertools

import numpy as np
from absl import flags

from benchmarks import peers

LENGTH, ROWS = 2048, 64

_DOCUMENTS = flags.DEFINE_integer('documents', 50_000, 'Number of documents.', lower_bound=100)


def _documents(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token ids of all documents and the start of each, with lengths around 300.

    Lengths are log-normal.
    """
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(300), 0.8, count), 16, LENGTH).astype(np.int64)
    return rng.integers(1, 4096, lengths.sum(), dtype=np.int32), np.cumsum([0, *lengths])


def ours(count: int):
    """Sets up the packer of `bsft_jax` and returns its turn."""
    from bsft_jax.data import loader, packing
    from bsft_jax.data.examples import ExampleStore

    ids, starts = _documents(count)
    zeros = np.zeros(count, np.int64)
    store = ExampleStore(ids, np.ones(len(ids), np.float32), starts, zeros, zeros)

    def turn():
        plan = packing.PackPlan(store.lengths, ROWS, LENGTH, 0)
        source = loader.BatchSource(store, plan)
        tokens = sum(
            int((source[step].segment_ids_BT > 0).sum(dtype=np.int64))
            for step in range(plan.steps_per_epoch)
        )
        assert tokens == len(ids)
        return {'fill': plan.fill}

    return turn


def grain_peer(count: int):
    """Sets up Grain's packer and returns its turn."""
    import grain

    ids, starts = _documents(count)

    def turn():
        data = grain.MapDataset.source(range(count)).map(
            lambda i: {'ids': ids[starts[i] : starts[i + 1]]}
        )
        rows = grain.experimental.BestFitPackIterDataset(
            data.to_iter_dataset(), length_struct={'ids': LENGTH}, num_packing_bins=ROWS
        )
        num_rows = tokens = 0
        for row in rows:
            num_rows, tokens = num_rows + 1, tokens + int((row['ids_segment_ids'] > 0).sum())
        assert tokens == len(ids)
        return {'fill': tokens / (num_rows * LENGTH)}

    return turn


def trl_peer(count: int):
    """Sets up TRL's packer and returns its turn."""
    import datasets
    import trl

    ids, starts = _documents(count)
    data = datasets.Dataset.from_dict(
        {'input_ids': [ids[a:b] for a, b in itertools.pairwise(starts)]}
    )
    datasets.disable_caching()
    datasets.disable_progress_bars()

    def turn():
        packed = trl.pack_dataset(data, LENGTH, 'bfd').with_format('numpy')
        tokens = sum(len(row['input_ids']) for row in packed)
        assert tokens == len(ids)
        return {'fill': tokens / (len(packed) * LENGTH)}

    return turn


CONTEST = peers.Contest(
    'benchmarks.packing',
    {'ours': ours, 'Grain': grain_peer, 'TRL': trl_peer},
    turns=3,
    result='packing_cpu',
)


def main() -> None:
    """Runs all packers, prints a table and writes the result."""
    question = {'count': _DOCUMENTS.value}
    results = CONTEST(question)
    tokens = len(_documents(**question)[0])
    print(f'{tokens:,} tokens\n{"":<7}{"tokens/s":>12}{"ours ×":>8}{"full":>8}{"peak MB":>9}')
    for name, row in results.items():
        row |= {
            'tokens_per_second': tokens / row['seconds'],
            'ours_is_faster_by': row['seconds'] / results['ours']['seconds'],
        }
        print(
            f'{name:<7}{row["tokens_per_second"]:>12,.0f}{row["ours_is_faster_by"]:>8.2f}'
            f'{row["fill"]:>8.1%}{row["peak_bytes"] / 1e6:>9,.0f}'
        )
    mine = results['ours']
    CONTEST.write(
        ('grain', 'trl', 'datasets', 'numpy'),
        (_DOCUMENTS,),
        documents=_DOCUMENTS.value,
        tokens=tokens,
        contestants=results,
        table=[
            (
                f'{_DOCUMENTS.value:,} documents packed into rows of {LENGTH:,} tokens',
                f'{mine["tokens_per_second"] / 1e6:.1f} M tokens/s, {mine["fill"]:.1%} full',
                f'{name}: {peer["tokens_per_second"] / 1e6:.1f} M, {peer["fill"]:.1%}',
                f'{peer["ours_is_faster_by"]:.1f} times as fast',
            )
            for name, peer in ((name, results[name]) for name in ('Grain', 'TRL'))
        ],
    )


if __name__ == '__main__':
    CONTEST.run(main)

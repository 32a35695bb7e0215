"""From tokenised documents to packed rows, beside Grain's packer and TRL's: tokens per second, and how full the rows.

    python -m benchmarks.packing                # 50,000 documents of 16 to 2,048 tokens: a minute on 2 cores

A turn packs all documents once into rows of 2,048 tokens and reads every row as arrays. Grain packs a stream into 64 open
rows (`BestFitPackIterDataset`); TRL packs a whole data set by best-fit decreasing, as ours does. Ours also makes targets,
weights, segments and positions, in batches of 64 rows.
"""

from __future__ import annotations

import itertools

import numpy as np
from absl import flags

from benchmarks import peers

LENGTH, ROWS = 2048, 64

_DOCUMENTS = flags.DEFINE_integer('documents', 50_000, 'Documents.', lower_bound=100)


def _documents(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all documents and where each starts: lengths are log-normal around 300."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(np.log(300), 0.8, count), 16, LENGTH).astype(np.int64)
    return draw.integers(1, 4096, lengths.sum(), dtype=np.int32), np.cumsum([0, *lengths])


def ours(count: int):
    from bsft_jax.data import loader, packing
    from bsft_jax.data.examples import ExampleStore

    ids, starts = _documents(count)
    store = ExampleStore(ids, np.ones(len(ids), np.float32), starts, np.zeros(count, np.int64))

    def turn():
        plan = packing.PackPlan(store.lengths, ROWS, LENGTH, 0)
        source = loader.StepSource(store, plan)
        full = sum(
            int((source[step].segment_ids_BT > 0).sum(dtype=np.int64)) for step in range(plan.steps_per_epoch)
        )
        assert full == len(ids)
        return {'fill': plan.fill}

    return turn


def grain_peer(count: int):
    import grain

    ids, starts = _documents(count)

    def turn():
        data = grain.MapDataset.source(range(count)).map(lambda i: {'ids': ids[starts[i] : starts[i + 1]]})
        rows = grain.experimental.BestFitPackIterDataset(
            data.to_iter_dataset(), length_struct={'ids': LENGTH}, num_packing_bins=ROWS
        )
        number = full = 0
        for row in rows:
            number, full = number + 1, full + int((row['ids_segment_ids'] > 0).sum())
        assert full == len(ids)
        return {'fill': full / (number * LENGTH)}

    return turn


def trl_peer(count: int):
    import datasets
    import trl

    ids, starts = _documents(count)
    data = datasets.Dataset.from_dict({'input_ids': [ids[a:b] for a, b in itertools.pairwise(starts)]})
    datasets.disable_caching()
    datasets.disable_progress_bars()

    def turn():
        packed = trl.pack_dataset(data, LENGTH, 'bfd').with_format('numpy')
        full = sum(len(row['input_ids']) for row in packed)
        assert full == len(ids)
        return {'fill': full / (len(packed) * LENGTH)}

    return turn


CONTEST = peers.Contest(
    'benchmarks.packing', {'ours': ours, 'Grain': grain_peer, 'TRL': trl_peer}, turns=3, result='packing_cpu'
)


def main() -> None:
    question = {'count': _DOCUMENTS.value}
    found = CONTEST(question)
    tokens = len(_documents(**question)[0])
    print(f'{tokens:,} tokens\n{"":<7}{"tokens/s":>12}{"ours ×":>8}{"full":>8}{"peak MB":>9}')
    for name, row in found.items():
        row |= {
            'tokens_per_second': tokens / row['seconds'],
            'ours_is_faster_by': row['seconds'] / found['ours']['seconds'],
        }
        print(
            f'{name:<7}{row["tokens_per_second"]:>12,.0f}{row["ours_is_faster_by"]:>8.2f}{row["fill"]:>8.1%}'
            f'{row["peak_bytes"] / 1e6:>9,.0f}'
        )
    mine = found['ours']
    CONTEST.write(
        ('grain', 'trl', 'datasets', 'numpy'), (_DOCUMENTS,), documents=_DOCUMENTS.value, tokens=tokens,
        contestants=found,
        table=[
            (
                f'{_DOCUMENTS.value:,} documents packed into rows of {LENGTH:,} tokens',
                f'{mine["tokens_per_second"] / 1e6:.1f} M tokens/s, {mine["fill"]:.1%} full',
                f'{name}: {found[name]["tokens_per_second"] / 1e6:.1f} M, {found[name]["fill"]:.1%}',
                f'{found[name]["ours_is_faster_by"]:.1f} times as fast',
            )
            for name in ('Grain', 'TRL')
        ],
    )  # fmt: skip


if __name__ == '__main__':
    CONTEST.run(main)

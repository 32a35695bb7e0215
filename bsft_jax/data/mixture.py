"""Mixture: how many records of each source an epoch holds, and which."""

from __future__ import annotations

import dataclasses

import numpy as np

from bsft_jax.errors import UserError

_STREAM = 3  # of random numbers, beside those of `labels`


def apportion(total: int, weights: tuple[float, ...]) -> list[int]:
    """`total` divided by weight into whole numbers, the largest remainders rounded up (Hamilton)."""
    shares = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind='stable')[: total - counts.sum()]] += 1
    return counts.tolist()


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sources that stand one behind the other, mixed by weight.

    An epoch has as many records as all sources together, of each source its exact share. A source
    is gone through in passes, every record once a pass, each pass in its own order; an epoch goes
    on where the one before it stopped. So after any number of epochs two records of one source have
    been seen equally often, give or take one.

    Attributes:
      sizes: records of each source.
      weights: of each source, above 0; their sum may be any.

    Raises UserError where a weight is so small that an epoch has no record of its source.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if not all(self.counts):
            raise UserError(
                f'part {self.counts.index(0) + 1} of the mixture has no record in an epoch of {sum(self.sizes):,}',
                where='--config.data.source',
                fix='raise its weight or leave it out',
            )

    @property
    def counts(self) -> list[int]:
        """Records of each source in an epoch."""
        return apportion(sum(self.sizes), self.weights)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Indices of an epoch's records, by source: a pure function of the arguments."""
        drawn, start = [], 0
        for source, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            first, end = epoch * count, (epoch + 1) * count
            passes = range(first // size, -(-end // size))
            orders = [np.random.default_rng((seed, _STREAM, source, p)).permutation(size) for p in passes]
            if orders:
                offset = first - passes.start * size
                drawn.append(start + np.concatenate(orders)[offset : offset + count])
            start += size
        return np.concatenate(drawn)

    def describe(self) -> str:
        """One line for the log."""
        parts = (f'{count:,} of {size:,}' for count, size in zip(self.counts, self.sizes, strict=True))
        return f'an epoch of the mixture draws {" + ".join(parts)} records'

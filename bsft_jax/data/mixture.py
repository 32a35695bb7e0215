"""Mixture: how many records of each source an epoch holds, and which ones."""

from __future__ import annotations

import dataclasses

import numpy as np

from bsft_jax.errors import UserError

# A stream of random numbers beside those of `labels`.
_STREAM = 3


def apportion(total: int, weights: tuple[float, ...]) -> list[int]:
    """Divides `total` by weight into whole numbers.

    The largest remainders are rounded up (Hamilton's method).
    """
    shares = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind='stable')[: total - counts.sum()]] += 1
    return counts.tolist()


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Mixes concatenated sources by weight.

    An epoch has as many records as all sources together, and of each source its exact share. A
    source is read in passes: every record once per pass, each pass in its own order. An epoch
    continues where the one before it stopped. So after any number of epochs the records of one
    source have been seen equally often, give or take one.

    Attributes:
      sizes: number of records of each source.
      weights: weight of each source, above 0; they need not sum to 1.
      records_N: index of each record, source after source; None counts them from 0.
      names: names of the sources in the log, if it tells more than their order.

    Raises UserError where a weight is so small that an epoch has no record of its source.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    records_N: np.ndarray | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if not all(self.counts):
            raise UserError(
                f'part {self.counts.index(0) + 1} of the mixture has no record in an epoch of '
                f'{sum(self.sizes):,}',
                where='--config.data.source',
                fix='raise its weight or leave it out',
            )

    @property
    def counts(self) -> list[int]:
        """Returns the number of records of each source in an epoch."""
        return apportion(sum(self.sizes), self.weights)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Draws the record indices of an epoch, source by source.

        The result is a pure function of the arguments.
        """
        drawn, first_record = [], 0
        for source, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            # The epoch is the slice [start, stop) of the source's endless sequence of passes.
            start, stop = epoch * count, (epoch + 1) * count
            passes = range(start // size, -(-stop // size))
            orders = [
                np.random.default_rng((seed, _STREAM, source, p)).permutation(size) for p in passes
            ]
            if orders:
                offset = start - passes.start * size
                drawn.append(first_record + np.concatenate(orders)[offset : offset + count])
            first_record += size
        drawn_N = np.concatenate(drawn)
        return drawn_N if self.records_N is None else self.records_N[drawn_N]

    def describe(self, unit: str = 'records') -> str:
        """Returns a line for the log; `unit` says what is drawn."""
        names = [f' ({name})' for name in self.names] or [''] * len(self.sizes)
        shares = (
            f'{count:,} of {size:,}{name}'
            for count, size, name in zip(self.counts, self.sizes, names, strict=True)
        )
        return f'an epoch of the mixture draws {" + ".join(shares)} {unit}'

"""Training data of a run: the records of its source as examples, and the plan of every step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.config import RunConfig
from bsft_jax.data import (
    checks,
    curriculum,
    example_cache,
    labels,
    packing,
    rendering,
    sources,
    split_names,
)
from bsft_jax.data.examples import ExampleStore
from bsft_jax.data.mixture import Mixture
from bsft_jax.data.trained_on import TrainedOn
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.records.record import Record, evenly_spaced_subset

# A step may have so many rows however few the records fill.
MAX_PADDED_ROWS = 64


def training_renderer(
    config: RunConfig, tokenizer: Any, behaviors: BehaviorSet
) -> rendering.Renderer:
    """Returns the renderer of a run's records, which writes the answer prefixes of its arm."""
    return rendering.Renderer(
        tokenizer,
        behaviors,
        answer_format=config.data.answer_format,
        behavior_weight=config.data.behavior_weight,
        train_on=config.data.train_on,
    )


class TrainingData(NamedTuple):
    """Holds what a run trains on.

    Attributes:
      store: the rendered examples.
      plan: which of them each step holds.
      trained_on: hashes of their records.
    """

    store: ExampleStore
    plan: packing.PackPlan
    trained_on: TrainedOn


class _Part(NamedTuple):
    """Holds one part of a source: examples, a line about them, and what they were made of.

    `digest` is of all training records; `trained_on` lacks an excluded category, and levels that no
    stage draws.
    """

    store: ExampleStore
    report: str
    trained_on: TrainedOn
    digest: str

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays that the cache holds."""
        keys = {f'key_{name}': getattr(self.trained_on, name) for name in _KEYS}
        return vars(self.store) | keys | {'digest': np.asarray(self.digest, np.bytes_)}

    @classmethod
    def from_cache(cls, arrays: example_cache.Arrays, report: str) -> _Part:
        """Returns a part of a cache entry."""
        arrays = dict(arrays)
        digest = bytes(arrays.pop('digest')).decode()
        keys = {name: arrays.pop(f'key_{name}') for name in _KEYS}
        return cls(ExampleStore(**arrays), report, TrainedOn(**keys), digest)


_KEYS = ('ids', 'cases', 'texts')


def training_examples(
    config: RunConfig,
    tokenizer: Any,
    behaviors: BehaviorSet,
    max_positions: int,
    *,
    limit: int = 0,
) -> TrainingData:
    """Renders the train split and plans every step, before a device is touched.

    Examples that took some seconds to render are cached for the next run that would render the
    same.

    Args:
      config: the run.
      tokenizer: the base's, extended by the behavior tokens.
      behaviors: the behaviors with their answer prefixes.
      max_positions: positions of the model.
      limit: renders this many records of each source, evenly spaced, and plans without curriculum,
        for which they may be too few; 0 for all.

    Raises UserError for records that cannot be trained on, and rows longer than the model allows.
    """
    data = config.data
    if data.sequence_length > max_positions:
        raise UserError(
            f'{data.sequence_length} is more than the {max_positions} positions of the model',
            where='--config.data.sequence_length',
        )
    name = '' if limit else _cache_name(config, tokenizer, behaviors)
    cached = example_cache.load(name) if name else None
    if cached is None:
        begin = time.monotonic()
        rendered = _render_sources(config, tokenizer, behaviors, limit)
        if name and time.monotonic() - begin > example_cache.MIN_RENDER_SECONDS:
            example_cache.save(
                name, [part.arrays() for part in rendered], [part.report for part in rendered]
            )
    else:
        rendered = [_Part.from_cache(*part) for part in zip(*cached, strict=True)]
    for part in rendered:
        processes.log_first(part.report)

    parts, stores = sources.parse_mixture(data.source), [part.store for part in rendered]
    levels, units_N = _units(config, stores)
    mixtures = {} if limit else curriculum.stage_mixtures(config, levels)
    if not mixtures and len(parts) > 1:
        mixtures[0] = Mixture(tuple(map(len, levels)), tuple(weight for _, weight in parts))
    unit = 'pairs and single records' if data.pairs_together else 'records'
    for step, mixture in mixtures.items():
        begin = f'from step {step} on ' if step else ''
        processes.log_first(f'{begin}{mixture.describe(unit)}')
    store = ExampleStore.joined(stores)
    plan = packing.PackPlan(
        store.lengths, data.global_batch_rows, data.sequence_length, config.seed, mixtures, units_N
    )
    if not limit:
        _check_rows(plan)
    processes.log_first(f'training on {plan.describe()}')
    trained_on = TrainedOn.joined(
        [
            part.trained_on.from_source(source, part.digest)
            for part, (source, _) in zip(rendered, parts, strict=True)
        ]
    )
    return TrainingData(store, plan, trained_on)


def _units(
    config: RunConfig, stores: Sequence[ExampleStore]
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Returns the levels of the units of each source, and the unit of each record of all sources.

    Units are pairs with `data.pairs_together`. Otherwise they are records, and the second is None.
    """
    if not config.data.pairs_together:
        return [store.levels for store in stores], None
    levels, units, num_units = [], [], 0
    for store in stores:
        own_N = packing.pair_units(
            store.pairs, store.levels, store.lengths, config.data.sequence_length
        )
        levels.append(store.levels[np.unique(own_N, return_index=True)[1]])
        units.append(num_units + own_N)
        num_units += len(levels[-1])
    return levels, np.concatenate(units)


def _check_rows(plan: packing.PackPlan) -> None:
    """Raises UserError for steps that are mostly padding; a few rows are none too many."""
    filled = plan.min_rows_per_epoch
    rows = max(filled, MAX_PADDED_ROWS)
    if plan.global_batch_rows > rows:
        raise UserError(
            f'{plan.global_batch_rows} rows are more than the records of an epoch fill ({filled})',
            where='--config.data.global_batch_rows',
            fix=f'lower it to {rows} at most',
        )


def _cache_name(config: RunConfig, tokenizer: Any, behaviors: BehaviorSet) -> str:
    """Returns the cache name of a run's examples; empty for a source without a fingerprint."""
    digests = [
        sources.fingerprint(source, 'train')
        for source, _ in sources.parse_mixture(config.data.source)
    ]
    if not all(digests):
        return ''
    settings = {**config.data.__dict__, 'source': digests, 'arm': config.arm, 'seed': config.seed}
    return example_cache.entry_name(
        {name: repr(value) for name, value in settings.items()},
        [repr(config.behaviors), repr(behaviors)],
        [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template],
    )


def _render_sources(
    config: RunConfig, tokenizer: Any, behaviors: BehaviorSet, limit: int
) -> list[_Part]:
    """Returns the parts of the source, rendered."""
    data, names = config.data, [source for source, _ in sources.parse_mixture(config.data.source)]
    loaded = [sources.load_records(source, 'train') for source in names]
    split_names.check_apart(data.source)
    kept = [labels.exclude_category(records, data.exclude_category) for records in loaded]
    # Before anything is rendered; it is repeated with those that fit a row.
    curriculum.check_levels(config, kept)
    included = [curriculum.keep_levels(config, records) for records in kept]
    if limit:
        included = [evenly_spaced_subset(records, limit) for records in included]
    renderer = training_renderer(config, tokenizer, behaviors)
    relabelled = iter(
        _relabel(config, behaviors, renderer, list(itertools.chain.from_iterable(included)))
    )
    rendered = []
    for source, before, others, part in zip(names, loaded, kept, included, strict=True):
        records = list(itertools.islice(relabelled, len(part)))
        store, report = rendering.render_examples(
            renderer,
            records,
            data.sequence_length,
            data.max_dropped_fraction,
            data.truncate_turns,
        )
        if data.exclude_category:
            excluded = len(before) - len(others)
            report += (
                f'; {excluded} of {len(before)} records of {data.exclude_category} are held out'
            )
        trained_on = TrainedOn.of_records(part)
        whole = trained_on if len(part) == len(before) else TrainedOn.of_records(before)
        rendered.append(_Part(store, f'{source}: {report}', trained_on, whole.digest))
    return rendered


def _relabel(
    config: RunConfig,
    behaviors: BehaviorSet,
    renderer: rendering.Renderer,
    records: list[Record],
) -> list[Record]:
    """Checks the records of all parts and changes their behaviors as arm and noise say."""
    checks.check_records(records, renderer, config.behaviors, config.data.unlabeled)
    if config.arm == 'shuffled_token':
        records = labels.shuffle_labels(records, config.seed)
    return labels.add_label_noise(records, config.data.label_noise, behaviors.names, config.seed)

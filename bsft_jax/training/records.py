"""What a run is trained on: the records of its source as examples, and the plan of every step."""

from __future__ import annotations

import itertools
import time

from bsft_jax import cache
from bsft_jax.behaviorbench import sampling, sources
from bsft_jax.config import RunConfig
from bsft_jax.data import checks, labels, packing, rendering
from bsft_jax.data.examples import ExampleStore
from bsft_jax.data.mixture import Mixture
from bsft_jax.errors import UserError
from bsft_jax.hub.model import BaseModel
from bsft_jax.parallel import processes


def training_renderer(config: RunConfig, base: BaseModel) -> rendering.Renderer:
    """How a run writes its records: with the heads of its arm."""
    return rendering.Renderer(
        base.tokenizer,
        base.behaviors,
        answer_format=config.data.answer_format,
        behavior_weight=config.data.behavior_weight,
        loss_on=config.data.loss_on,
    )


def training_examples(
    config: RunConfig, base: BaseModel, limit: int = 0
) -> tuple[ExampleStore, packing.PackPlan]:
    """Records of the train split → examples and the plan of every step, before a device is touched.

    What took some seconds to render is kept, and found by the next run that would render the same.
    With a `limit` only so many records of each source, evenly spread, are looked at.
    """
    d, positions = config.data, base.network.arch.max_positions
    if d.sequence_length > positions:
        raise UserError(
            f'{d.sequence_length} is more than the {positions} positions of the model',
            where='--config.data.sequence_length',
        )
    name = '' if limit else _entry(config, base)
    kept = cache.load(name) if name else None
    if kept is None:
        begun = time.monotonic()
        stores, reports = _rendered(config, base, limit)
        if name and time.monotonic() - begun > cache.FROM_SECONDS:
            cache.save(name, [vars(store) for store in stores], reports)
    else:
        stores, reports = [ExampleStore(**arrays) for arrays in kept[0]], kept[1]
    for report in reports:
        processes.say(report)
    parts, mixture = sources.parts_of(d.source), None
    if len(parts) > 1:
        mixture = Mixture(tuple(map(len, stores)), tuple(weight for _, weight in parts))
        processes.say(mixture.describe())
    store = ExampleStore.joined(stores)
    plan = packing.PackPlan(store.lengths, d.rows_per_step, d.sequence_length, config.seed, mixture)
    processes.say(f'training on {plan.describe()}')
    return store, plan


def _entry(config: RunConfig, base: BaseModel) -> str:
    """Name of the run's examples in the cache; '' where the records cannot be told apart without reading them."""
    prints = [sources.fingerprint(source, 'train') for source, _ in sources.parts_of(config.data.source)]
    if not all(prints):
        return ''
    made_by = {**config.data.__dict__, 'source': prints, 'arm': config.arm, 'seed': config.seed}
    behaviors = [repr(config.behaviors), repr(base.behaviors)]
    tokenizer = [base.tokenizer.backend_tokenizer.to_str(), base.tokenizer.chat_template]
    return cache.key({name: repr(value) for name, value in made_by.items()}, behaviors, tokenizer)


def _rendered(config: RunConfig, base: BaseModel, limit: int) -> tuple[list[ExampleStore], list[str]]:
    """The examples of each part of the source, and a line about each."""
    d, parts = config.data, sources.parts_of(config.data.source)
    everything = [sources.load_records(source, 'train') for source, _ in parts]
    if limit:
        everything = [sampling.spread(records, limit) for records in everything]
    kept = [labels.hold_out(records, d.hold_out) for records in everything]
    records = list(itertools.chain.from_iterable(kept))
    renderer = training_renderer(config, base)
    checks.check_records(records, renderer, config.behaviors, d.without_behavior)
    if config.arm == 'shuffled_token':
        records = labels.permute(records, config.seed)
    rest = iter(labels.flip(records, d.label_noise, base.behaviors.names, config.seed))
    stores, reports = [], []
    for (source, _), before, part in zip(parts, everything, kept, strict=True):
        mine = list(itertools.islice(rest, len(part)))
        store, report = rendering.render_examples(renderer, mine, d.sequence_length, d.drop_long, d.truncate)
        if d.hold_out:
            report += f'; {len(before) - len(part)} of {len(before)} records of {d.hold_out} are held out'
        stores.append(store)
        reports.append(f'{source}: {report}')
    return stores, reports

"""Checks that activations and updates keep their size when a model gets wider.

Where they grow or vanish with the width, the best learning rate of a small model is not that of a
large one. The check is the coordinate check of Yang et al. 2022 (arXiv 2203.03466, appendix D.1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bsft_jax.config import RunConfig
from bsft_jax.config.shape import Shape, parse_shape
from bsft_jax.data import loader, pipeline
from bsft_jax.data.examples import Batch
from bsft_jax.errors import UserError
from bsft_jax.models import lm_head
from bsft_jax.models.network import Network, Params
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.report import table
from bsft_jax.studies import ladder
from bsft_jax.studies.study import with_overrides
from bsft_jax.training import setup
from bsft_jax.training import step as step_lib

FACTORS = (1, 2, 4)
STEPS = 4
# Slope of log size over log width up to which a size counts as flat. Under the standard
# parametrization the logits start with a slope of 0.5 and change with one of 0.8 to 1.4, on the
# ladder nothing has more than 0.31 (widths 32 to 256 of `configs/size_ladder.py`).
MAX_SLOPE = 0.4


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """Holds the sizes of a model's coordinates at several widths.

    Attributes:
      widths: of the models.
      sizes: by name, the root mean square at each width: `logits` before training, and
        `hidden change N`, `logits change N` after N steps.
    """

    widths: tuple[int, ...]
    sizes: Mapping[str, tuple[float, ...]]

    @property
    def slopes(self) -> dict[str, float]:
        """Returns by name the slope of log size over log width."""
        logs = np.log(self.widths)
        return {
            name: float(np.polyfit(logs, np.log(values), 1)[0])
            for name, values in self.sizes.items()
        }

    @property
    def steep(self) -> dict[str, float]:
        """Returns the slopes that are not flat."""
        return {name: s for name, s in self.slopes.items() if not abs(s) <= MAX_SLOPE}


def measure_widths(
    config: RunConfig, *, factors: Sequence[int] = FACTORS, by_rule: bool = True
) -> Coordinates:
    """Trains a config's model for a few steps at several widths.

    Heads, key/value heads and the MLP grow with the width; depth and the width of a head stay. The
    learning rate is that of the config from the first step on, without warmup.

    Args:
      config: has random weights and a `model.shape`, the narrowest.
      factors: of the widths.
      by_rule: whether weights and learning rates follow the width as on a ladder; otherwise all
        widths have those of the config, the standard parametrization.

    Raises:
      UserError: the config has no `model.shape`, or cannot be trained.
    """
    if not config.model.shape:
        raise UserError(
            'names no sizes to start from',
            where='--config.model.shape',
            fix='write width=128,layers=4,heads=4,kv_heads=2,mlp=384 with model.init=random',
        )
    base = parse_shape(config.model.shape)
    std = base.std or setup.read_base(config).network.arch.init_std
    found: dict[str, list[float]] = {}
    for factor in factors:
        shape = dataclasses.replace(
            base,
            width=factor * base.width,
            heads=factor * base.heads,
            kv_heads=factor * base.kv_heads,
            mlp=factor * base.mlp,
            std=float(f'{std / math.sqrt(factor) if by_rule else std:.6g}'),
        )
        rate = config.optimizer.learning_rate
        if by_rule:
            rate = ladder.transfer_rate(
                rate, width=shape.width, base_width=base.width, tokens=1, base_tokens=1
            )
        for name, size in _train(config, shape, rate).items():
            found.setdefault(name, []).append(size)
    widths = tuple(factor * base.width for factor in factors)
    return Coordinates(widths, {name: tuple(sizes) for name, sizes in found.items()})


def _train(config: RunConfig, shape: Shape, rate: float) -> dict[str, float]:
    """Returns the sizes of one model on the first batch, by name."""
    config = with_overrides(
        config,
        {
            'model.shape': str(shape),
            'optimizer.learning_rate': rate,
            'optimizer.warmup_steps': 0,
            'optimizer.end_lr_ratio': 1.0,
        },
    )
    spec = setup.read_base(config)
    store, plan, _ = pipeline.training_examples(
        config, spec.tokenizer, spec.behaviors, spec.network.arch.max_positions
    )
    network = dataclasses.replace(spec.network, max_segments=plan.max_records_per_row)
    state_plan = setup.plan_state(config, network)
    source = loader.BatchSource(store, plan, row_multiple=state_plan.row_multiple)
    train_step = step_lib.step_of_run(config, state_plan.network)
    sizes = {}
    with jax.set_mesh(state_plan.mesh):
        state = setup.initial_state(config, spec, state_plan, source)
        first = source[0]
        hidden, logits = _forward(state_plan.network, state.params, first)
        sizes['logits'] = _rms(logits)
        for step in range(STEPS):
            state, _ = train_step(state, source[step])
            changed_hidden, changed_logits = _forward(state_plan.network, state.params, first)
            sizes[f'hidden change {step + 1}'] = _rms(changed_hidden - hidden)
            sizes[f'logits change {step + 1}'] = _rms(changed_logits - logits)
    return sizes


@jax.jit(static_argnums=0)
def _forward(network: Network, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns hidden states after the final norm, and logits, of all tokens; 0 for padding."""
    decoder = network.bind(params)
    layout = TokenLayout(
        batch.segment_ids_BT, batch.positions_BT, max_segments=network.max_segments
    )
    hidden_BTD, _ = decoder(batch.tokens_BT, layout)
    kept_BT1 = (batch.segment_ids_BT > 0)[..., None]
    logits_BTV = lm_head.logits(decoder, hidden_BTD)
    return tuple(jnp.where(kept_BT1, x, 0.0) for x in (hidden_BTD, logits_BTV))


def _rms(x: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)))))


def format_coordinates(found: Coordinates) -> str:
    """Returns the sizes as a table with their slopes."""
    slopes = found.slopes
    lines = [['root mean square', *(f'width {width}' for width in found.widths), 'slope']]
    lines += [
        [name, *map(table.format_number, values), f'{slopes[name]:+.2f}']
        for name, values in found.sizes.items()
    ]
    return '\n'.join(table.align_columns(lines, left=1))

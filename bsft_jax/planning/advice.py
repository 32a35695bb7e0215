"""What would fit: by arithmetic where a plan does not, by compilation in a search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bsft_jax.config import REMAT, RunConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.planning import account
from bsft_jax.planning.topology import Topology

FRUGAL = ('full', 'offload')  # keep least on the devices, the first without the host's memory


def sentence(plan: dict[str, Any]) -> str:
    """Both figures of a plan that does not fit, and what would fit; of a search nothing that it has tried."""
    memory = plan['memory']
    total, capacity = memory['total'], memory['capacity']
    if total is None:
        return f'{plan["topology"]}: {memory["message"]}'
    parts, searched = [], 'tried' in plan
    if plan['remat'] not in FRUGAL and not searched:
        parts.append(f'--config.train.remat={FRUGAL[0]}')
    if (rows := rows_left(plan)) > 1 and not searched:
        accumulation = plan['accumulation'] * next(n for n in range(2, rows + 1) if rows % n == 0)
        parts.append(f'smaller micro-batches (--config.train.accumulation={accumulation} or more)')
    state = sum(memory['arguments'].get(name, 0) for name in ('trainable', 'frozen', 'moments'))
    least = math.ceil(state * plan['devices'] / capacity)
    enough = 2 ** math.ceil(math.log2(total / capacity)) * plan['devices']
    if state >= capacity:
        parts = [f'more devices: parameters and moments alone need {least}']
    else:
        parts.append(f'more devices (about {enough})')
    return (
        f'{plan["topology"]} needs {total / 2**30:.1f} GiB a device and has {capacity / 2**30:.1f}; '
        f'what would: {", or ".join(parts)}'
    )


def rows_left(plan: dict[str, Any]) -> int:
    """Rows of a device in one micro-batch: into how many more it can be split."""
    mesh = plan['mesh']
    return plan['rows_per_step'] // (plan['accumulation'] * mesh['data'] * mesh['fsdp'])


def search(config: RunConfig, topology: Topology, devices: Sequence) -> dict[str, Any]:
    """The plan of the fastest `train.remat` × `train.accumulation` that fits; the rows of a step stay.

    For each policy the micro-batch shrinks until it fits: smaller ones only move more. The fastest is the one
    whose time is least if nothing overlaps. `tried` lists all; where none fits the plan is that of the last.
    `config` is changed to the choice.

    Raises UserError for simulated devices, which anything fits, and as `account.plan` does.
    """
    if topology.chip is None:
        raise UserError(
            'nothing to search: simulated devices have no memory', where=f'--topology={topology.text}'
        )
    data, fsdp, *_ = mesh_lib.resolve(config.mesh, len(devices))
    rows = max(1, config.data.rows_per_step // (data * fsdp))  # account.plan says where they do not divide
    tried, fitting = [], []
    for remat in REMAT:
        for accumulation in (n for n in range(1, rows + 1) if rows % n == 0):
            train = dataclasses.replace(config.train, remat=remat, accumulation=accumulation)
            plan = account.plan(dataclasses.replace(config, train=train), topology, devices)
            fits = plan['verdict']['fits']
            tried.append(
                {'remat': remat, 'accumulation': accumulation, 'fits': fits, 'seconds': _seconds(plan)}
            )
            if fits:
                fitting.append(plan)
                break
    chosen = min(fitting, key=lambda plan: _seconds(plan) or math.inf, default=plan)
    config.train.remat, config.train.accumulation = chosen['remat'], chosen['accumulation']
    return chosen | {'tried': tried}


def _seconds(plan: dict[str, Any]) -> float | None:
    return plan['estimate']['upper']['step_seconds'] if 'estimate' in plan else None

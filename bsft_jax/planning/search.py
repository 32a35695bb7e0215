"""Finds what fits: by arithmetic after a plan that does not, or by compiling many plans."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bsft_jax.config import REMAT, RunConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.planning import compile_plan
from bsft_jax.planning.topology import Topology

# Policies that keep the least on the devices; the first does without the host's memory.
LOWEST_MEMORY_REMAT = ('full', 'offload')


def explain_misfit(plan: dict[str, Any]) -> str:
    """Returns one line with both sizes of a plan that does not fit, and with what would fit.

    After a search it suggests nothing that the search has tried.
    """
    memory = plan['memory']
    total, capacity = memory['total'], memory['capacity']
    if total is None:
        return f'{plan["topology"]}: {memory["message"]}'
    suggestions, searched = [], 'tried' in plan
    if plan['remat'] not in LOWEST_MEMORY_REMAT and not searched:
        suggestions.append(f'--config.train.remat={LOWEST_MEMORY_REMAT[0]}')
    if (rows := rows_per_micro_batch(plan)) > 1 and not searched:
        accumulation = plan['accumulation'] * next(n for n in range(2, rows + 1) if rows % n == 0)
        suggestions.append(
            'smaller micro-batches '
            f'(--config.train.gradient_accumulation_steps={accumulation} or more)'
        )
    state = sum(memory['arguments'].get(name, 0) for name in ('trainable', 'frozen', 'moments'))
    min_devices = math.ceil(state * plan['devices'] / capacity)
    enough_devices = 2 ** math.ceil(math.log2(total / capacity)) * plan['devices']
    # What is kept between steps shrinks with the devices alone.
    if state >= capacity:
        suggestions = [f'more devices: parameters and moments alone need {min_devices}']
    else:
        suggestions.append(f'more devices (about {enough_devices})')
    return (
        f'{plan["topology"]} has {capacity / 2**30:.1f} GiB per device, the step needs '
        f'{total / 2**30:.1f}; it would fit with {", or ".join(suggestions)}'
    )


def rows_per_micro_batch(plan: dict[str, Any]) -> int:
    """Returns the rows that a device has in one micro-batch, which bounds further splitting."""
    mesh = plan['mesh']
    return plan['global_batch_rows'] // (plan['accumulation'] * mesh['data'] * mesh['fsdp'])


def search_plans(config: RunConfig, topology: Topology, devices: Sequence) -> dict[str, Any]:
    """Finds the fastest `train.remat` × `train.gradient_accumulation_steps` that fits.

    The rows of a step stay the same. For each policy the micro-batch shrinks until it fits: smaller
    ones only move more. The fastest plan is the one with the least time if nothing overlaps.

    Returns the plan, in which `tried` lists every combination; if none fits, it is the last one.
    `config` is changed to the choice. Raises UserError for simulated devices, which have no limit,
    and as `compile_plan.make_plan` does.
    """
    if topology.chip is None:
        raise UserError(
            'nothing to search: simulated devices have no memory limit',
            where=f'--topology={topology.text}',
        )
    data, fsdp, *_ = mesh_lib.axis_sizes(config.mesh, len(devices))
    # At least one, so that make_plan reports rows that do not divide.
    rows = max(1, config.data.global_batch_rows // (data * fsdp))
    tried, fitting = [], []
    for remat in REMAT:
        for accumulation in (n for n in range(1, rows + 1) if rows % n == 0):
            train = dataclasses.replace(
                config.train, remat=remat, gradient_accumulation_steps=accumulation
            )
            plan = compile_plan.make_plan(
                dataclasses.replace(config, train=train), topology, devices
            )
            fits = plan['verdict']['fits']
            tried.append(
                {
                    'remat': remat,
                    'accumulation': accumulation,
                    'fits': fits,
                    'seconds': _upper_seconds(plan),
                }
            )
            if fits:
                fitting.append(plan)
                break
    chosen = min(fitting, key=lambda plan: _upper_seconds(plan) or math.inf, default=plan)
    config.train.remat = chosen['remat']
    config.train.gradient_accumulation_steps = chosen['accumulation']
    return chosen | {'tried': tried}


def _upper_seconds(plan: dict[str, Any]) -> float | None:
    return plan['estimate']['upper']['step_seconds'] if 'estimate' in plan else None

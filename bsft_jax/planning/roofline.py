"""A step's time from a chip's peaks: what it cannot beat, and what it takes if nothing overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bsft_jax.models.network import Network
from bsft_jax.planning.chips import Chip
from bsft_jax.planning.collectives import Collective


def estimate(
    plan: dict[str, Any], network: Network, chip: Chip, *, places: Sequence[int], moved: Sequence[Collective]
) -> dict[str, Any]:
    """Seconds of a step and what follows from them, for bfloat16 activations.

    `compute`: products of the compiled program, and attention by formula where a kernel does it, at the chip's peak.
    `memory`: parameters and moments read and written once, and the weights read in each pass over each micro-batch;
    activations are left out. `collectives`: bytes received over all fast links together, or over the network
    where a group spans `places` (slices, hosts). `lower` is the largest of the three (all overlap), `upper` their sum (none
    does).
    """
    per_device = plan['flops']['per_device']
    executed = plan['flops']['compiled']
    if plan['attention']['kernel_calls']:
        executed += per_device * plan['flops']['attention_per_token'] / plan['flops']['per_token']
    state = plan['memory']['arguments']
    weights = 2 * network.arch.parameters / plan['mesh']['tensor']
    traffic = 2 * (state['trainable'] + state['moments']) + 2 * weights * plan['accumulation']
    seconds = {
        'compute': executed / chip.flops,
        'memory': traffic / chip.memory_bandwidth,
        'collectives': sum(one.runs * one.received / _bandwidth(one, places, chip) for one in moved),
    }
    lower, upper = max(seconds.values()), sum(seconds.values())
    tokens = plan['rows_per_step'] * plan['sequence_length']
    return {
        'seconds': seconds,
        'bound_by': max(seconds, key=seconds.get),
        **{
            name: {
                'step_seconds': step,
                'tokens_per_second': tokens / step,
                'tokens_per_second_per_device': tokens / step / plan['devices'],
                'mfu': per_device / step / chip.flops,
            }
            for name, step in (('lower', lower), ('upper', upper))
        },
        'chip': chip.name,
        'source': chip.source,
    }


def _bandwidth(one: Collective, places: Sequence[int], chip: Chip) -> float:
    """Bytes/s that a device receives: its links, or its share of what all members in a place get from others."""
    members = max(one.groups, key=lambda group: len({places[device] for device in group}))
    spanned = len({places[device] for device in members})
    if spanned == 1:
        return chip.link
    return min(chip.link, len(members) / spanned * chip.network)

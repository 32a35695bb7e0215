"""The time of a step from a chip's peaks: a lower bound, and the time if nothing overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bsft_jax.models.network import Network
from bsft_jax.planning.chips import Chip
from bsft_jax.planning.collectives import Collective


def estimate(
    plan: dict[str, Any],
    network: Network,
    chip: Chip,
    *,
    link_domains: Sequence[int],
    collectives: Sequence[Collective],
) -> dict[str, Any]:
    """Estimates the seconds of a step and the rates that follow, for bfloat16 activations.

    The parts are:

    - `compute`: matmuls of the compiled program, and attention by formula if a kernel computes it,
      at the chip's peak.
    - `memory`: parameters and moments are read and written once, and the weights are read in each
      pass over each micro-batch. Activations are left out.
    - `collectives`: bytes received over all fast links together, or over the network for a group
      that spans several slices or hosts.

    Args:
      plan: the plan so far: its FLOPs, memory, attention and sizes.
      network: the network.
      chip: the chip whose peaks are used.
      link_domains: slice or host of each device, in the order of the mesh.
      collectives: collectives of a step.

    Returns a dictionary in which `lower` is the largest part (all overlap) and `upper` is their sum
    (nothing overlaps).
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
        'collectives': sum(
            collective.runs * collective.received / _bandwidth(collective, link_domains, chip)
            for collective in collectives
        ),
    }
    lower, upper = max(seconds.values()), sum(seconds.values())
    tokens = plan['global_batch_rows'] * plan['sequence_length']
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


def _bandwidth(collective: Collective, link_domains: Sequence[int], chip: Chip) -> float:
    """Returns the bytes/s that a device receives in a collective.

    Within a link domain these come over its links. Otherwise the members in a domain pool their
    shares of the network, and each needs the data of the other domains.
    """
    group = max(
        collective.groups, key=lambda group: len({link_domains[device] for device in group})
    )
    num_domains = len({link_domains[device] for device in group})
    if num_domains == 1:
        return chip.link_bandwidth
    return min(chip.link_bandwidth, len(group) / num_domains * chip.network_bandwidth)

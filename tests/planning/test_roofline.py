"""Time by peaks: the bound of a step, and collectives over a network between slices or hosts."""

import pytest

from bsft_jax.config import ComputeConfig
from bsft_jax.hub import configs, presets
from bsft_jax.models.network import Network
from bsft_jax.planning import roofline
from bsft_jax.planning.chips import CHIPS
from bsft_jax.planning.collectives import Collective

HOST = tuple(range(8))


def estimate(chip, groups, kernel_calls=0):
    network = Network(
        configs.architecture_of(presets.preset('qwen2.5-0.5b')),
        compute=ComputeConfig(dtype='bfloat16'),
    )
    plan = {
        'flops': {
            'per_device': 1e12,
            'compiled': 2e12,
            'per_token': 10.0,
            'attention_per_token': 1.0,
        },
        'attention': {'kernel_calls': kernel_calls},
        'memory': {'arguments': {'trainable': 10**9, 'moments': 2 * 10**9}},
        'mesh': {'data': 1, 'fsdp': 16, 'context': 1, 'tensor': 1},
        'global_batch_rows': 16,
        'sequence_length': 100,
        'accumulation': 3,
        'devices': 16,
    }
    return roofline.estimate(
        plan,
        network,
        CHIPS[chip],
        link_domains=[0] * 8 + [1] * 8,
        collectives=[Collective('all-gather', groups, 10**10, 2)],
    )


@pytest.mark.parametrize(
    'chip, groups, bytes_per_second',
    [
        # Within hosts.
        ('h100', (HOST, tuple(n + 8 for n in HOST)), CHIPS['h100'].link_bandwidth),
        # One GPU of each host.
        ('h100', ((0, 8),), CHIPS['h100'].network_bandwidth),
        # Eight GPUs of each host, with an adapter each.
        ('h100', (tuple(range(16)),), 8 * CHIPS['h100'].network_bandwidth),
        ('v5p', (tuple(range(16)),), 8 * CHIPS['v5p'].network_bandwidth),
    ],
)
def test_seconds_of_collectives(chip, groups, bytes_per_second):
    n = len(groups[0])
    received = 2 * 10**10 * (n - 1) / n
    seconds = estimate(chip, groups)['seconds']['collectives']
    assert seconds == pytest.approx(received / bytes_per_second)


def test_the_bounds_are_the_largest_part_and_the_sum():
    result, chip = estimate('h100', ((0, 8),), kernel_calls=4), CHIPS['h100']
    seconds = result['seconds']
    # The matmuls inside kernels count by formula.
    assert seconds['compute'] == pytest.approx((2e12 + 1e11) / chip.flops)
    weights = 2 * configs.architecture_of(presets.preset('qwen2.5-0.5b')).parameters
    assert seconds['memory'] == pytest.approx((2 * 3e9 + 2 * 3 * weights) / chip.memory_bandwidth)
    assert result['bound_by'] == 'collectives'
    assert result['lower']['step_seconds'] == max(seconds.values())
    assert result['upper']['step_seconds'] == sum(seconds.values())
    assert result['upper']['mfu'] == pytest.approx(1e12 / sum(seconds.values()) / chip.flops)
    assert result['lower']['tokens_per_second_per_device'] == pytest.approx(
        100 / max(seconds.values())
    )

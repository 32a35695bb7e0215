"""Peaks of the chips that plans are made for, each figure from its maker's page."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      name: as people write it.
      flops: peak of dense bfloat16 products, FLOP/s.
      memory: bytes of HBM, of NVIDIA's cards as the driver reports them; a program may use a little less.
      memory_bandwidth: bytes/s.
      link: bytes/s that one chip receives over all its fast links together (ICI, NVLink): half of the
        bidirectional figure that makers print.
      network: bytes/s that one chip receives from another slice or host, its share of the host's cards.
      source: pages of these figures.
    """

    name: str
    flops: float
    memory: int
    memory_bandwidth: float
    link: float
    network: float
    source: str


GIB = 2**30
_HOPPER_NETWORK = 50e9  # DGX: one 400 Gb/s adapter a card, docs.nvidia.com/dgx/dgxh100-user-guide

CHIPS = {
    'v5e': Chip(
        'TPU v5e', 197e12, 16 * GIB, 819e9, 200e9, 6.4e12 / 8 / 256,
        'cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GBps, 400 GBps bidirectional, 6.4 Tbps a pod of 256',
    ),
    'v5p': Chip(
        'TPU v5p', 459e12, 95 * GIB, 2765e9, 600e9, 50e9 / 8,
        'cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GiB, 2765 GBps, 1200 GBps bidirectional, 50 Gbps a chip',
    ),
    'v6e': Chip(
        'TPU v6e', 918e12, 32 * GIB, 1638e9, 400e9, 25.6e12 / 8 / 256,
        'cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1638 GBps, 800 GBps bidirectional, 25.6 Tbps a pod of 256',
    ),
    'h100': Chip(
        'H100 SXM', 989.4e12, 84_942_979_072, 3.35e12, 450e9, _HOPPER_NETWORK,
        'nvidia.com/en-us/data-center/h100: 1979 TFLOPS with sparsity, 80 GB, 3.35 TB/s, NVLink 900 GB/s',
    ),
    'h200': Chip(
        'H200 SXM', 989.4e12, 151_397_597_184, 4.8e12, 450e9, _HOPPER_NETWORK,
        'nvidia.com/en-us/data-center/h200: 1979 TFLOPS with sparsity, 141 GB, 4.8 TB/s, NVLink 900 GB/s',
    ),
}  # fmt: skip

"""The chips that plans are made for. A new chip is one more entry of CHIPS.

Every number comes from the maker's page that the entry names as its source.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30
# One 400 Gb/s adapter per GPU of a DGX: docs.nvidia.com/dgx/dgxh100-user-guide
_DGX_NETWORK = 50e9


@dataclasses.dataclass(frozen=True)
class GpuTarget:
    """Describes a GPU to the CUDA compiler, in fields of XLA's GpuTargetConfigProto.

    Attributes:
      compute_capability: `cuda_compute_capability` in text form.
      device_info: fields of `gpu_device_info`, without the memory's size and bandwidth.
    """

    compute_capability: str
    device_info: dict[str, int | float]


@dataclasses.dataclass(frozen=True)
class Chip:
    """Describes one kind of device.

    Attributes:
      name: name for readers.
      target: what the compiler is given: libtpu's name of a TPU, or the description of a GPU.
      example_shape: shape of an example topology, as long as every shape of the chip's topologies:
        chips along each dimension of a TPU slice; hosts, and GPUs per host.
      flops: peak of dense bfloat16 matmuls, FLOP/s.
      memory: bytes of HBM, for NVIDIA GPUs as the driver reports them; a program may use a little
        less.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s that one chip receives over all its fast links together (ICI, NVLink):
        half of the bidirectional number that makers publish.
      network_bandwidth: bytes/s that one chip receives from another slice or host: its share of the
        host's network adapters.
      source: pages of these numbers.
    """

    name: str
    target: str | GpuTarget
    example_shape: tuple[int, ...]
    flops: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    source: str

    @property
    def platform(self) -> str:
        """Returns `gpu` or `tpu`."""
        return 'gpu' if isinstance(self.target, GpuTarget) else 'tpu'


# From NVIDIA's H100 whitepaper and CUDA's table of limits for compute capability 9.0.
_HOPPER = GpuTarget(
    compute_capability='major: 9 feature_extension: ACCELERATED_FEATURES',
    device_info={
        'threads_per_block_limit': 1024,
        'threads_per_warp': 32,
        'threads_per_core_limit': 2048,
        'core_count': 132,
        'shared_memory_per_block': 48 * 1024,
        'shared_memory_per_core': 228 * 1024,
        'shared_memory_per_block_optin': 227 * 1024,
        'registers_per_core_limit': 2**16,
        'registers_per_block_limit': 2**16,
        'fpus_per_core': 128,
        'block_dim_limit_x': 2**31 - 1,
        'block_dim_limit_y': 2**16 - 1,
        'block_dim_limit_z': 2**16 - 1,
        'l2_cache_size': 50 * 2**20,
        'clock_rate_ghz': 1.98,
    },
)

# By the name that stands before the colon of `--topology`.
CHIPS = {
    'v5e': Chip(
        name='TPU v5e',
        target='v5e',
        example_shape=(4, 4),
        flops=197e12,
        memory=16 * GIB,
        memory_bandwidth=819e9,
        link_bandwidth=200e9,
        network_bandwidth=6.4e12 / 8 / 256,
        source='cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GBps, '
        '400 GBps bidirectional, 6.4 Tbps a pod of 256',
    ),
    'v5p': Chip(
        name='TPU v5p',
        target='v5p',
        example_shape=(4, 4, 4),
        flops=459e12,
        memory=95 * GIB,
        memory_bandwidth=2765e9,
        link_bandwidth=600e9,
        network_bandwidth=50e9 / 8,
        source='cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GiB, 2765 GBps, '
        '1200 GBps bidirectional, 50 Gbps a chip',
    ),
    'v6e': Chip(
        name='TPU v6e',
        target='v6e',
        example_shape=(16, 16),
        flops=918e12,
        memory=32 * GIB,
        memory_bandwidth=1638e9,
        link_bandwidth=400e9,
        network_bandwidth=25.6e12 / 8 / 256,
        source='cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1638 GBps, '
        '800 GBps bidirectional, 25.6 Tbps a pod of 256',
    ),
    'h100': Chip(
        name='H100 SXM',
        target=_HOPPER,
        example_shape=(4, 8),
        flops=989.4e12,
        memory=84_942_979_072,
        memory_bandwidth=3.35e12,
        link_bandwidth=450e9,
        network_bandwidth=_DGX_NETWORK,
        source='nvidia.com/en-us/data-center/h100: 1979 TFLOPS with sparsity, 80 GB, 3.35 TB/s, '
        'NVLink 900 GB/s',
    ),
    'h200': Chip(
        name='H200 SXM',
        target=_HOPPER,
        example_shape=(4, 8),
        flops=989.4e12,
        memory=151_397_597_184,
        memory_bandwidth=4.8e12,
        link_bandwidth=450e9,
        network_bandwidth=_DGX_NETWORK,
        source='nvidia.com/en-us/data-center/h200: 1979 TFLOPS with sparsity, 141 GB, 4.8 TB/s, '
        'NVLink 900 GB/s',
    ),
}

"""Devices that are not there: a spelling such as `v5p:4x4x4`, and what compiles for them.

`prepare` has to run before jax is imported.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from importlib import metadata

from bsft_jax.errors import UserError
from bsft_jax.planning.chips import CHIPS, Chip

_TPU_DIMENSIONS = {'v5e': 2, 'v5p': 3, 'v6e': 2}
_SPELLINGS = 'v5e:4x4, v5p:4x4x4, v6e:16x16, a TPU shape with *S for S slices, h100:HxG, h200:HxG, cpu:N'
_ENVIRONMENT = {
    'tpu': {
        'JAX_PLATFORMS': 'cpu',
        'TPU_SKIP_MDS_QUERY': '1',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        'TPU_WORKER_HOSTNAMES': 'localhost',  # else libtpu looks for the machine it is not on, and says so
        'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
        'TF_CPP_MIN_LOG_LEVEL': '3',
    },
    'gpu': {
        'JAX_PLATFORMS': 'cpu',
        'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1',
        'TF_CPP_MIN_LOG_LEVEL': '3',
    },
    'cpu': {'JAX_PLATFORMS': 'cpu'},
}
# What the compiler asks of a Hopper card, from NVIDIA's H100 whitepaper and CUDA's table for compute capability 9.0.
_HOPPER = {
    'threads_per_block_limit': 1024, 'threads_per_warp': 32, 'threads_per_core_limit': 2048, 'core_count': 132,
    'shared_memory_per_block': 48 * 1024, 'shared_memory_per_core': 228 * 1024,
    'shared_memory_per_block_optin': 227 * 1024, 'registers_per_core_limit': 2**16,
    'registers_per_block_limit': 2**16, 'fpus_per_core': 128, 'block_dim_limit_x': 2**31 - 1,
    'block_dim_limit_y': 2**16 - 1, 'block_dim_limit_z': 2**16 - 1, 'l2_cache_size': 50 * 2**20,
    'clock_rate_ghz': 1.98,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """Attributes:
    text: as it was spelled.
    platform: `tpu`, `gpu` or `cpu`.
    chip: its peaks; None for simulated devices.
    shape: chips along each dimension; (hosts, cards) of GPUs; (devices,) of simulated ones.
    slices: of a TPU; 1 elsewhere.
    """

    text: str
    platform: str
    chip: Chip | None
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def devices(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def kind(self) -> str:
        return self.text.partition(':')[0]

    def place(self, device) -> int:
        """The slice of a TPU, the host of a GPU: what only a network lies between."""
        if self.platform == 'tpu':
            return getattr(device, 'slice_index', None) or 0
        return device.process_index

    @property
    def compiler(self) -> dict[str, str]:
        """Versions of the packages that compile for it; raises PackageNotFoundError where one is missing."""
        packages = {'tpu': ('libtpu',), 'gpu': ('jax-cuda13-pjrt', 'jax-cuda13-plugin')}.get(
            self.platform, ()
        )
        return {name: metadata.version(name) for name in ('jaxlib', *packages)}


def parse(text: str) -> Topology:
    """The topology that a flag names; imports no jax. Raises UserError for another spelling."""
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?', text)
    kind, sizes, slices = match.groups() if match else ('', '', None)
    shape = tuple(map(int, sizes.split('x'))) if sizes else ()
    platform = 'cpu' if kind == 'cpu' else 'tpu' if kind in _TPU_DIMENSIONS else 'gpu'
    dimensions = {'cpu': 1, 'gpu': 2}.get(platform) or _TPU_DIMENSIONS[kind]
    known = kind in CHIPS or kind == 'cpu'
    if not known or len(shape) != dimensions or 0 in shape or (slices and platform != 'tpu') or slices == '0':
        raise UserError(f'{text!r} is no topology', where='--topology', fix=f'use one like {_SPELLINGS}')
    return Topology(text, platform, CHIPS.get(kind), shape, int(slices or 1))


def prepare(topology: Topology) -> None:
    """Sets what the compiler reads from the environment when jax is imported.

    Raises UserError where the compiler of the platform is not installed.
    """
    try:
        topology.compiler  # noqa: B018
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f'the compiler for {topology.kind} is not installed ({error.name})',
            where=f'--topology={topology.text}',
            fix="pip install '.[plan]'",
        ) from error
    os.environ.update(_ENVIRONMENT[topology.platform])
    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'  # a program cannot be read back without its devices
    if topology.platform == 'cpu':
        count = f'--xla_force_host_platform_device_count={topology.devices}'
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {count}'.strip()


def devices(topology: Topology) -> list:
    """The devices; raises UserError for a shape that the compiler does not know."""
    import jax
    from jax.experimental import topologies

    if topology.platform == 'cpu':
        return jax.devices('cpu')[: topology.devices]
    shape = 'x'.join(map(str, topology.shape))
    try:
        if topology.platform == 'gpu':
            found = topologies.get_topology_desc(
                '', platform='cuda', topology=f'1x{shape}', target_config=_target(topology.kind)
            )
        else:
            more = {'num_slices': topology.slices} if topology.slices > 1 else {}
            found = topologies.get_topology_desc(f'{topology.kind}:{shape}', 'tpu', **more)
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        why = str(error).strip().splitlines()[0][:200]
        raise UserError(f'no such topology ({why})', where=f'--topology={topology.text}') from error
    return list(found.devices)


def _target(kind: str) -> str:
    """A card in the text form of XLA's GpuTargetConfigProto."""
    chip = CHIPS[kind]
    fields = _HOPPER | {
        'memory_bandwidth': int(chip.memory_bandwidth),
        'device_memory_size': chip.memory,
    }
    lines = [f'  {name}: {value}' for name, value in fields.items()]
    return '\n'.join(
        [
            'gpu_device_info {',
            *lines,
            '  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }',
            '}',
            'platform_name: "CUDA"',
            'dnn_version_info { major: 9 minor: 10 }',
            f'device_description_str: "NVIDIA {kind.upper()}"',
        ]
    )

"""Topologies: devices that are not there, as in `v5p:4x4x4`, and the compilers for them.

`set_compiler_environment` must run before jax is imported.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from importlib import metadata

from bsft_jax.errors import UserError
from bsft_jax.planning.chips import CHIPS, Chip

_COMPILER_PACKAGES = {
    'tpu': ('libtpu',),
    'gpu': ('jax-cuda13-pjrt', 'jax-cuda13-plugin'),
    'cpu': (),
}
_ENVIRONMENT = {
    'tpu': {
        'JAX_PLATFORMS': 'cpu',
        'TPU_SKIP_MDS_QUERY': '1',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        # Without a name libtpu looks for the TPU host that it runs on and reports that it has none.
        'TPU_WORKER_HOSTNAMES': 'localhost',
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


def _examples(platform: str) -> str:
    return ', '.join(
        f'{kind}:{"x".join(map(str, chip.example_shape))}'
        for kind, chip in CHIPS.items()
        if chip.platform == platform
    )


# The topologies that a plan can be made for, in one line.
SPELLINGS = (
    f'{_examples("tpu")} (*S: S slices), {_examples("gpu")} (hosts × GPUs per host) or cpu:N'
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Describes the devices of a plan.

    Attributes:
      text: its spelling on the command line.
      platform: `tpu`, `gpu` or `cpu`.
      chip: its chip; None for simulated devices.
      shape: chips along each dimension of a TPU slice; (hosts, GPUs per host); (devices,) for
        simulated ones.
      slices: number of TPU slices; 1 elsewhere.
    """

    text: str
    platform: str
    chip: Chip | None
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def num_devices(self) -> int:
        """Returns the number of devices of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def kind(self) -> str:
        """Returns the chip's key in CHIPS, or `cpu`."""
        return self.text.partition(':')[0]

    def link_domain(self, device) -> int:
        """Returns the index of a device's TPU slice or GPU host.

        Within a domain devices have fast links; only a network connects domains.
        """
        if self.platform == 'tpu':
            return getattr(device, 'slice_index', None) or 0
        return device.process_index

    def compiler_versions(self) -> dict[str, str]:
        """Returns the versions of the packages that compile for it.

        Raises PackageNotFoundError if one is missing.
        """
        packages = ('jaxlib', *_COMPILER_PACKAGES[self.platform])
        return {name: metadata.version(name) for name in packages}


def parse_topology(text: str) -> Topology:
    """Parses the value of `--topology`, without importing jax; raises UserError if it is none."""
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?', text)
    kind, sizes, slices = match.groups() if match else ('', '', None)
    shape = tuple(map(int, sizes.split('x'))) if sizes else ()
    chip = CHIPS.get(kind)
    platform = chip.platform if chip else 'cpu'
    dimensions = len(chip.example_shape) if chip else 1
    valid = (
        (chip or kind == 'cpu')
        and len(shape) == dimensions
        and 0 not in shape
        and (slices is None or (platform == 'tpu' and int(slices)))
    )
    if not valid:
        raise UserError(
            f'{text!r} is not a topology', where='--topology', fix=f'use one like {SPELLINGS}'
        )
    return Topology(text, platform, chip, shape, int(slices or 1))


def set_compiler_environment(topology: Topology) -> None:
    """Sets the environment variables that the compiler reads when jax is imported.

    Raises UserError if the compiler of the platform is not installed.
    """
    try:
        topology.compiler_versions()
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f'the compiler for {topology.kind} is not installed ({error.name})',
            where=f'--topology={topology.text}',
            fix="pip install '.[plan]'",
        ) from error
    os.environ.update(_ENVIRONMENT[topology.platform])
    # A program cannot be read back without its devices.
    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    if topology.platform == 'cpu':
        count = f'--xla_force_host_platform_device_count={topology.num_devices}'
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {count}'.strip()


def topology_devices(topology: Topology) -> list:
    """Returns the devices; raises UserError for a shape that the compiler does not know."""
    import jax
    from jax.experimental import topologies

    if topology.platform == 'cpu':
        return jax.devices('cpu')[: topology.num_devices]
    shape = 'x'.join(map(str, topology.shape))
    try:
        if topology.platform == 'gpu':
            description = topologies.get_topology_desc(
                '', platform='cuda', topology=f'1x{shape}', target_config=_target_config(topology)
            )
        else:
            options = {'num_slices': topology.slices} if topology.slices > 1 else {}
            description = topologies.get_topology_desc(
                f'{topology.chip.target}:{shape}', 'tpu', **options
            )
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f'no such topology ({reason})', where=f'--topology={topology.text}'
        ) from error
    return list(description.devices)


def _target_config(topology: Topology) -> str:
    """Returns the text form of XLA's GpuTargetConfigProto."""
    chip = topology.chip
    fields = chip.target.device_info | {
        'memory_bandwidth': int(chip.memory_bandwidth),
        'device_memory_size': chip.memory,
    }
    return '\n'.join(
        [
            'gpu_device_info {',
            *(f'  {name}: {value}' for name, value in fields.items()),
            f'  cuda_compute_capability {{ {chip.target.compute_capability} }}',
            '}',
            'platform_name: "CUDA"',
            'dnn_version_info { major: 9 minor: 10 }',
            f'device_description_str: "NVIDIA {topology.kind.upper()}"',
        ]
    )

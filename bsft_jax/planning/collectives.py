"""Collectives of a compiled program: their kind, mesh axes, number and bytes per step."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from bsft_jax.planning.hlo import Array, Computation, Instruction, Module

KINDS = (
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
# Groups by mesh axes: the mesh, the order of its devices (optional), the axes.
_MESH_GROUPS = re.compile(
    r'mesh\[([^\]]*)\](?:, device_ids=\(([^)]*(?:\([\d,]*\))?)\))? \{([^}]*)\}'
)
# Times that a ring or a torus sends each payload, before the factor (n - 1) / n.
_PASSES = {'all-reduce': 2, 'all-gather': 1, 'reduce-scatter': 1, 'all-to-all': 1}

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
    """Describes what one instruction moves.

    Attributes:
      kind: one of KINDS, or the name of a transfer between slices.
      groups: groups of devices that exchange data, by their index in the order of the mesh.
      payload: bytes of the full array: the gathered result, or the operand that is reduced,
        scattered or sent.
      runs: executions per step.
    """

    kind: str
    groups: Groups
    payload: int
    runs: int

    @property
    def received(self) -> float:
        """Returns the bytes that a device receives per execution, the least that a ring needs."""
        n = len(self.groups[0])
        passes = _PASSES.get(self.kind)
        return self.payload * (passes * (n - 1) / n if passes else 1.0)


def find_collectives(
    module: Module, link_domains: Sequence[int]
) -> tuple[list[Collective], list[str]]:
    """Returns every collective of a program, and the names of loops of unknown length.

    An asynchronous collective counts where it starts. So does a gather that a TPU spreads over
    several fusions. An all-reduce whose fusion keeps only the device's shard is a reduce-scatter.
    What slices exchange over the network appears in the program as a receive from the host.

    Args:
      module: the program.
      link_domains: slice or host of each device, in the order of the mesh.
    """
    counts, unknown_loops = module.run_counts()
    found = []
    for name, computation in module.computations.items():
        if not counts[name]:
            continue
        starts_async = any('AsyncCollectiveStart' in i.attributes for i in computation.values())
        for instruction in computation.values():
            if instruction.op == 'recv':
                collective = _between_slices(instruction, counts[name], link_domains)
            elif 'chain_id=' in instruction.attributes and not starts_async:
                collective = None
            else:
                collective = _within_program(
                    instruction, name, computation, counts[name], len(link_domains)
                )
            if collective is not None:
                found.append(collective)
    return found, unknown_loops


def _between_slices(
    instruction: Instruction, runs: int, link_domains: Sequence[int]
) -> Collective | None:
    """Returns the transfer between slices that a receive belongs to, if it does to one."""
    transfer = _BETWEEN_SLICES.search(instruction.attributes)
    if not transfer:
        return None
    kind = transfer[1].lower().replace('_', '-')
    # The n-th devices of all slices exchange with each other.
    slices = [
        [device for device, domain in enumerate(link_domains) if domain == index]
        for index in sorted(set(link_domains))
    ]
    groups = tuple(zip(*slices, strict=True))
    return Collective(kind, groups, instruction.arrays[0].bytes, runs)


def _within_program(
    instruction: Instruction, name: str, computation: Computation, runs: int, num_devices: int
) -> Collective | None:
    """Returns the collective of an instruction of the computation `name`, if it is one."""
    kind = instruction.op.removesuffix('-start')
    if kind not in KINDS:
        return None
    groups = _parse_groups(instruction.attributes, num_devices)
    if max(map(len, groups)) < 2:
        return None
    payload = sum(array.bytes for array in _payload(kind, instruction, computation))
    if kind == 'all-reduce' and name.startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'
    return Collective(kind, groups, payload, runs)


def _payload(kind: str, instruction: Instruction, computation: Computation) -> Sequence[Array]:
    arrays = instruction.arrays
    if kind in ('reduce-scatter', 'all-to-all', 'ragged-all-to-all'):
        return [array for name in instruction.operands for array in computation[name].arrays]
    if kind == 'collective-permute':
        return arrays[:1]
    if instruction.op == 'all-gather-start':
        # The result holds the operands, then the gathered arrays.
        return arrays[len(instruction.operands) : 2 * len(instruction.operands)]
    return arrays


def axes_of(groups: Sequence[Sequence[int]], mesh: dict[str, int]) -> str:
    """Returns the mesh axes along which devices exchange data, such as `fsdp` or `data, fsdp`.

    `part of` precedes them if the groups are smaller than the axes they run along.
    """
    sizes = tuple(mesh.values())
    coordinates = [np.stack(np.unravel_index(group, sizes)) for group in groups]
    varies = np.any([(c != c[:, :1]).any(axis=1) for c in coordinates], axis=0)
    names = [name for name, does in zip(mesh, varies, strict=True) if does]
    spans_axes = max(map(len, groups)) == math.prod(mesh[name] for name in names)
    return ('' if spans_axes else 'part of ') + ', '.join(names)


def summarize_collectives(found: Sequence[Collective], mesh: dict[str, int]) -> list[dict]:
    """Totals the collectives of a step by kind and axes, most bytes first.

    Returns dictionaries {kind, axes, count, bytes, payload}; `bytes` are received by a device.
    """
    totals = collections.defaultdict(lambda: [0, 0.0, 0])
    for collective in found:
        total = totals[collective.kind, axes_of(collective.groups, mesh)]
        total[0] += collective.runs
        total[1] += collective.runs * collective.received
        total[2] += collective.runs * collective.payload
    keys = ('count', 'bytes', 'payload')
    rows = [
        {'kind': kind, 'axes': axes, **dict(zip(keys, total, strict=True))}
        for (kind, axes), total in totals.items()
    ]
    return sorted(rows, key=lambda row: -row['bytes'])


def _parse_groups(attributes: str, num_devices: int) -> Groups:
    """Parses replica groups in each of XLA's spellings.

    They are pairs of a permutation, lists, iota (`[4,2]<=[2,4]T(1,0)`), or axes of a mesh. An empty
    list means all devices.
    """
    if pairs := re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', attributes):
        return _connected_devices(_parse_lists(pairs[1]))
    spelled = re.search(r'replica_groups=(.*)', attributes)
    text = spelled[1] if spelled else '{}'
    if match := re.match(r'\{((?:\{[\d,]*\},?)*)\}', text):
        return _parse_lists(match[1]) or (tuple(range(num_devices)),)
    if match := re.match(r'\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)', text):
        return _to_groups(_parse_iota(match[2]).reshape(_integers(match[1])))
    if match := _MESH_GROUPS.match(text):
        return _groups_by_axes(*match.groups())
    raise ValueError(f'unknown spelling of replica groups: {text[:120]}')


def _connected_devices(pairs: Sequence[Sequence[int]]) -> Groups:
    """Returns the groups of devices that a permutation connects, directly or through others."""
    group_of = {device: {device} for pair in pairs for device in pair}
    for source, target in pairs:
        if group_of[source] is not group_of[target]:
            union = group_of[source] | group_of[target]
            group_of |= dict.fromkeys(union, union)
    groups = {id(group): tuple(sorted(group)) for group in group_of.values()}
    return tuple(groups.values()) or ((0,),)


def _groups_by_axes(mesh: str, order: str | None, axes: str) -> Groups:
    """Returns groups along mesh axes, or along a factor of an axis.

    `'x':(2)4` is the factor 4 of `x` that follows a leading factor of 2.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    factors, dims, along = {}, [], []
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
        factors[name] = (int(before), int(size)) if size else (1, sizes[name])
    # Each axis becomes three dimensions: before the factor, the factor, after it.
    for name, axis_size in sizes.items():
        before, size = factors.get(name, (axis_size, 1))
        dims += [before, size, axis_size // (before * size)]
        along.append(len(dims) - 2)
    ids = _device_order(order, math.prod(sizes.values())).reshape(dims)
    rest = [axis for axis in range(len(dims)) if axis not in along]
    group_size = math.prod(dims[axis] for axis in along)
    return _to_groups(ids.transpose(rest + along).reshape(-1, group_size))


def _device_order(text: str | None, num_devices: int) -> np.ndarray:
    if not text:
        return np.arange(num_devices)
    return _parse_iota(text) if text.startswith('[') else np.array(_integers(text))


def _parse_iota(text: str) -> np.ndarray:
    """Returns the flat array of `[2,4]T(1,0)`: 0 to 7 in that shape, transposed."""
    match = re.match(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', text)
    numbers = np.arange(math.prod(_integers(match[1]))).reshape(_integers(match[1]))
    return (numbers.transpose(_integers(match[2])) if match[2] else numbers).ravel()


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(',') if part.strip()]


def _parse_lists(text: str) -> Groups:
    return tuple(tuple(_integers(group)) for group in re.findall(r'\{([\d,]+)\}', text))


def _to_groups(array: np.ndarray) -> Groups:
    return tuple(tuple(map(int, group)) for group in array)

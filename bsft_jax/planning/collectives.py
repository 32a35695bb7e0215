"""Collectives of a compiled program: kind, mesh axes, how many and how many bytes a step."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from bsft_jax.planning.hlo import Array, Instruction, Module

KINDS = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute',
    'collective-broadcast',
)  # fmt: skip
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """What one instruction moves.

    Attributes:
      kind: one of KINDS, or what slices do between them.
      groups: of devices that exchange, as numbers in the order of the mesh.
      payload: bytes of the whole array: the gathered result, the operand that is reduced, scattered or sent.
      runs: times a step.
    """

    kind: str
    groups: tuple[tuple[int, ...], ...]
    payload: int
    runs: int

    @property
    def received(self) -> float:
        """Bytes that a device receives each time, at the least that a ring or a torus needs."""
        n = len(self.groups[0])
        times = {'all-reduce': 2, 'all-gather': 1, 'reduce-scatter': 1, 'all-to-all': 1}.get(self.kind)
        return self.payload * (times * (n - 1) / n if times else 1.0)


def find(module: Module, places: Sequence[int]) -> tuple[list[Collective], list[str]]:
    """Every collective of a program, and names of loops whose length is not known.

    Starts count and their ends do not. A gather that a TPU spreads over several fusions counts where it starts;
    an all-reduce whose fusion keeps only a device's part is a reduce-scatter; what slices exchange over the network
    is written as a receive from the host.

    Args:
      places: the slice (or host) of each device, in the order of the mesh.
    """
    runs, unknown = module.runs()
    found = []
    across = [[n for n, place in enumerate(places) if place == one] for one in sorted(set(places))]
    for name, computation in module.computations.items():
        if not runs[name]:
            continue
        starts = any('AsyncCollectiveStart' in i.attributes for i in computation.values())
        for instruction in computation.values():
            if instruction.op == 'recv' and (sliced := _BETWEEN_SLICES.search(instruction.attributes)):
                kind, groups = sliced[1].lower().replace('_', '-'), tuple(zip(*across, strict=True))
                found.append(Collective(kind, groups, instruction.arrays[0].bytes, runs[name]))
                continue
            kind = instruction.op.removesuffix('-start')
            if kind not in KINDS or ('chain_id=' in instruction.attributes and not starts):
                continue
            groups = _groups(instruction.attributes, len(places))
            if max(map(len, groups)) < 2:
                continue
            payload = sum(array.bytes for array in _payload(kind, instruction, computation))
            if kind == 'all-reduce' and name.startswith('all-reduce-scatter'):
                kind = 'reduce-scatter'
            found.append(Collective(kind, groups, payload, runs[name]))
    return found, unknown


def _payload(kind: str, instruction: Instruction, computation: dict) -> Sequence[Array]:
    arrays = instruction.arrays
    if kind in ('reduce-scatter', 'all-to-all', 'ragged-all-to-all'):
        return [array for name in instruction.operands for array in computation[name].arrays]
    if kind == 'collective-permute':
        return arrays[:1]
    if instruction.op == 'all-gather-start':  # operands, then results
        return arrays[len(instruction.operands) : 2 * len(instruction.operands)]
    return arrays


def axes_of(groups: Sequence[Sequence[int]], mesh: dict[str, int]) -> str:
    """The mesh axes along which devices exchange, such as `fsdp` or `data, fsdp`.

    `part of` stands before an axis where the groups are smaller than the axes they run along.
    """
    sizes = tuple(mesh.values())
    places = [np.stack(np.unravel_index(group, sizes)) for group in groups]
    varies = np.any([(place != place[:, :1]).any(axis=1) for place in places], axis=0)
    names = [name for name, does in zip(mesh, varies, strict=True) if does]
    whole = max(map(len, groups)) == math.prod(mesh[name] for name in names)
    return ('' if whole else 'part of ') + ', '.join(names)


def summary(found: Sequence[Collective], mesh: dict[str, int]) -> list[dict]:
    """Rows {kind, axes, count, bytes, payload} of a step, most bytes first; `bytes` are what a device receives."""
    rows = collections.defaultdict(lambda: [0, 0.0, 0])
    for one in found:
        row = rows[one.kind, axes_of(one.groups, mesh)]
        row[0] += one.runs
        row[1] += one.runs * one.received
        row[2] += one.runs * one.payload
    keys = ('count', 'bytes', 'payload')
    made = [
        {'kind': kind, 'axes': axes, **dict(zip(keys, row, strict=True))}
        for (kind, axes), row in rows.items()
    ]
    return sorted(made, key=lambda row: -row['bytes'])


def _groups(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """Groups as XLA spells them: listed, iota (`[4,2]<=[2,4]T(1,0)`), by axes of a mesh; none is all devices."""
    if pairs := re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', attributes):
        return _joined(_listed(pairs[1]))
    spelled = re.search(r'replica_groups=(.*)', attributes)
    text = spelled[1] if spelled else '{}'
    if match := re.match(r'\{((?:\{[\d,]*\},?)*)\}', text):
        return _listed(match[1]) or (tuple(range(devices)),)
    if match := re.match(r'\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)', text):
        return _rows(_iota(match[2]).reshape(_integers(match[1])))
    if match := re.match(r'mesh\[([^\]]*)\](?:, device_ids=\(([^)]*(?:\([\d,]*\))?)\))? \{([^}]*)\}', text):
        return _by_axes(*match.groups())
    raise ValueError(f'unknown spelling of replica groups: {text[:120]}')


def _joined(pairs: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Devices between which a permutation moves something, directly or over others."""
    group_of = {device: {device} for pair in pairs for device in pair}
    for source, target in pairs:
        if group_of[source] is not group_of[target]:
            both = group_of[source] | group_of[target]
            group_of |= dict.fromkeys(both, both)
    return tuple({id(group): tuple(sorted(group)) for group in group_of.values()}.values()) or ((0,),)


def _by_axes(mesh: str, order: str | None, chosen: str) -> tuple[tuple[int, ...], ...]:
    """Groups along axes, or along parts of axes (`'x':(2)4`: 4 of them behind the first factor of 2)."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    split, dims, along = {}, [], []
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        split[name] = (int(before), int(size)) if size else (1, sizes[name])
    for name, whole in sizes.items():
        before, size = split.get(name, (whole, 1))
        dims += [before, size, whole // (before * size)]
        along.append(len(dims) - 2)
    ids = _order(order, math.prod(sizes.values())).reshape(dims)
    rest = [axis for axis in range(len(dims)) if axis not in along]
    return _rows(ids.transpose(rest + along).reshape(-1, math.prod(dims[axis] for axis in along)))


def _order(text: str | None, devices: int) -> np.ndarray:
    if not text:
        return np.arange(devices)
    return _iota(text) if text.startswith('[') else np.array(_integers(text))


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: numbers from 0 in that shape, transposed, flat."""
    match = re.match(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', text)
    numbers = np.arange(math.prod(_integers(match[1]))).reshape(_integers(match[1]))
    return (numbers.transpose(_integers(match[2])) if match[2] else numbers).ravel()


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(',') if part.strip()]


def _listed(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_integers(group)) for group in re.findall(r'\{([\d,]+)\}', text))


def _rows(array: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row)) for row in array)

"""A compiled program as text: its instructions, and how often each of them runs in one step."""

from __future__ import annotations

import dataclasses
import math
import re

_SIZES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 'bf16': 2}  # bytes; other dtypes end in their bits
_ARRAY = re.compile(r'\b(pred|bf16|[suf]\d+|f8\w*|c\d+)\[([\d,]*)\]')
_HEAD = re.compile(r'(?:ENTRY )?%?([^\s(]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?(\S+) = ')
_CALLS = re.compile(
    r'(body|condition|calls|to_apply|branch_computations|called_computations)=\{?((?:%[^\s,}]+(?:, )?)+)'
)


@dataclasses.dataclass(frozen=True)
class Array:
    """A dtype and dimensions, as `bf16[8,128]`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        size = _SIZES.get(self.dtype) or (1 if self.dtype.startswith('f8') else int(self.dtype[1:]) / 8)
        return math.ceil(math.prod(self.shape) * size)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = arrays op(operands), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    op: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def callees(self) -> list[tuple[str, str]]:
        """(attribute, computation) of every computation that it calls."""
        return [
            (kind, name.lstrip('%'))
            for kind, names in _CALLS.findall(self.attributes)
            for name in names.rstrip(', ').split(', ')
        ]

    def number(self, name: str) -> int:
        """An integer attribute such as `index=3`."""
        return int(re.search(rf'\b{name}=(\d+)', self.attributes)[1])


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """Attributes:
    computations: by name, in the order of the text: callees stand before their callers.
    entry: name of the one that runs.
    """

    computations: dict[str, Computation]
    entry: str

    def runs(self) -> tuple[dict[str, int], list[str]]:
        """How often each computation runs in one call, and names of loops whose length is not known.

        Those count once, and so does every branch of a conditional.
        """
        counts = dict.fromkeys(self.computations, 0)
        counts[self.entry], unknown = 1, []
        for name in reversed(self.computations):
            for instruction in self.computations[name].values():
                if instruction.op in ('async-update', 'async-done'):
                    continue
                trips = 1
                if instruction.op == 'while' and counts[name]:
                    trips = self.trips(name, instruction)
                    if trips is None:
                        unknown.append(instruction.name)
                        trips = 1
                for _, callee in instruction.callees:
                    counts[callee] += counts[name] * trips
        return counts, unknown

    def trips(self, caller: str, loop: Instruction) -> int | None:
        """Iterations of a loop: what the compiler says, what a counter and its bound say, or the most that its name
        allows (`at_most_8_times`, a scope of the program); None where nothing does."""
        if known := re.search(r'known_trip_count[^\d}]*?n[^\d}]*?(\d+)', loop.attributes):
            return int(known[1])
        if most := re.search(r'op_name="[^"]*at_most_(\d+)_times\)*/while"', loop.attributes):
            return int(most[1])
        callees = dict(loop.callees)
        condition, body = (self.computations[callees[kind]] for kind in ('condition', 'body'))
        test = next(i for i in condition.values() if i.root)
        if test.op != 'compare' or 'direction=LT' not in test.attributes:
            return None
        counter, bound = (condition[name] for name in test.operands)
        if counter.op != 'get-tuple-element' or bound.op != 'constant':
            return None
        index = counter.number('index')
        first = _constant(self.computations[caller], loop.operands[0], index)
        step = _step(body, index)
        if first is None or not step:
            return None
        return max(0, -(-(int(bound.operands[0]) - first) // step))


def _constant(computation: Computation, name: str, index: int) -> int | None:
    """The constant that stands at `index` of a tuple."""
    found = computation[name]
    if found.op != 'tuple':
        return None
    found = computation[found.operands[index]]
    while found.op in ('copy', 'bitcast', 'convert'):
        found = computation[found.operands[0]]
    return int(found.operands[0]) if found.op == 'constant' else None


def _step(body: Computation, index: int) -> int | None:
    """What an iteration adds to the counter at `index`."""
    root = next(i for i in body.values() if i.root)
    if root.op != 'tuple':
        return None
    found, step = body[root.operands[index]], 0
    while found.op in ('add', 'copy'):
        parts = [body[name] for name in found.operands]
        step += sum(int(part.operands[0]) for part in parts if part.op == 'constant')
        rest = [part for part in parts if part.op != 'constant']
        if len(rest) != 1:
            return None
        found = rest[0]
    return step if found.op == 'get-tuple-element' and found.number('index') == index else None


def parse(text: str) -> Module:
    """The module that `compiled.as_text()` prints; raises ValueError for a text without an entry."""
    computations, entry, current = {}, '', None
    for line in _lines(text):
        if current is None or not line.startswith(' '):
            if match := _HEAD.match(line):
                current = computations.setdefault(match[1], {})
                entry = match[1] if line.startswith('ENTRY') else entry
        elif match := _INSTRUCTION.match(line):
            instruction = _instruction(match, line)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError('no ENTRY computation in the text of the program')
    return Module(computations, entry)


def _lines(text: str) -> list[str]:
    """Lines of instructions and heads, without comments; attributes that run over several lines are joined."""
    joined = []
    for line in re.sub(r'/\*index=\d+\*/', '', text).splitlines():
        if not joined or _INSTRUCTION.match(line) or _HEAD.match(line) or line == '}':
            joined.append(line)
        else:
            joined[-1] += line
    return joined


def _instruction(match: re.Match, line: str) -> Instruction:
    rest = line[match.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in sizes.split(',') if n))
        for dtype, sizes in _ARRAY.findall(rest[:end])
    )
    op, _, _ = rest[end:].strip().partition('(')
    start = rest.index('(', end)
    close = _closing(rest, start)
    inside = rest[start + 1 : close]
    operands = re.findall(r'%([^\s,()]+)', inside) or [part.strip() for part in inside.split(',')]
    return Instruction(match[2], arrays, op, tuple(operands), rest[close + 1 :], bool(match[1]))


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {'(': 1, ')': -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f'an unclosed parenthesis in {text[:80]!r}')

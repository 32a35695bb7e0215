"""Compiled programs as text: their instructions, and how often each of them runs in one step."""

from __future__ import annotations

import dataclasses
import math
import re

from bsft_jax.ops.hlo_names import BOUNDED_LOOP_SCOPE

# Bytes of an element; the names of other dtypes end in their bits.
_SIZES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 'bf16': 2}
_ARRAY = re.compile(r'\b(pred|bf16|[suf]\d+|f8\w*|c\d+)\[([\d,]*)\]')
_COMPUTATION_HEADER = re.compile(r'(?:ENTRY )?%?([^\s(]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?(\S+) = ')
_CALLS = re.compile(
    r'(body|condition|calls|to_apply|branch_computations|called_computations)='
    r'\{?((?:%[^\s,}]+(?:, )?)+)'
)
_BOUNDED_SCOPE = BOUNDED_LOOP_SCOPE.format(r'(\d+)')
_BOUNDED_LOOP = re.compile(rf'op_name="[^"]*{_BOUNDED_SCOPE}\)*/while"')


@dataclasses.dataclass(frozen=True)
class Array:
    """Describes an array by its dtype and dimensions, as in `bf16[8,128]`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Returns the size in bytes."""
        size = _SIZES.get(self.dtype) or (
            1 if self.dtype.startswith('f8') else int(self.dtype[1:]) / 8
        )
        return math.ceil(math.prod(self.shape) * size)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Represents one line of a computation: `%name = arrays op(operands), attributes`.

    Attributes:
      name: its name, without `%`.
      arrays: its results.
      op: the operation.
      operands: names of instructions, or the literal text of a constant or parameter.
      attributes: the text after the operands.
      is_root: whether it is the computation's result.
    """

    name: str
    arrays: tuple[Array, ...]
    op: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def callees(self) -> list[tuple[str, str]]:
        """Returns (attribute, computation) for every computation that it calls."""
        return [
            (kind, name.lstrip('%'))
            for kind, names in _CALLS.findall(self.attributes)
            for name in names.rstrip(', ').split(', ')
        ]

    def integer(self, name: str) -> int:
        """Returns an integer attribute such as `index=3`."""
        return int(re.search(rf'\b{name}=(\d+)', self.attributes)[1])


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """Represents a compiled program.

    Attributes:
      computations: computations by name, in the order of the text: callees come before callers.
      entry: name of the computation that runs.
    """

    computations: dict[str, Computation]
    entry: str

    def run_counts(self) -> tuple[dict[str, int], list[str]]:
        """Returns how often each computation runs per call, and the loops of unknown length.

        Such loops, which are returned by name, count once, and so does every branch of a
        conditional.
        """
        counts = dict.fromkeys(self.computations, 0)
        counts[self.entry], unknown_loops = 1, []
        for name in reversed(self.computations):
            for instruction in self.computations[name].values():
                if instruction.op in ('async-update', 'async-done'):
                    continue
                trips = 1
                if instruction.op == 'while' and counts[name]:
                    trips = self.trip_count(name, instruction)
                    if trips is None:
                        unknown_loops.append(instruction.name)
                        trips = 1
                for _, callee in instruction.callees:
                    counts[callee] += counts[name] * trips
        return counts, unknown_loops

    def trip_count(self, caller: str, loop: Instruction) -> int | None:
        """Returns the iterations of a loop of the computation `caller`; None if unknown.

        Sources, in this order: the compiler's annotation; the upper bound in the name of the
        loop's scope (`BOUNDED_LOOP_SCOPE`); a counter with a constant start, step and bound.
        """
        if known := re.search(r'known_trip_count[^\d}]*?n[^\d}]*?(\d+)', loop.attributes):
            return int(known[1])
        if bounded := _BOUNDED_LOOP.search(loop.attributes):
            return int(bounded[1])
        callees = dict(loop.callees)
        condition, body = (self.computations[callees[kind]] for kind in ('condition', 'body'))
        test = _root(condition)
        if test.op != 'compare' or 'direction=LT' not in test.attributes:
            return None
        counter, bound = (condition[name] for name in test.operands)
        if counter.op != 'get-tuple-element' or bound.op != 'constant':
            return None
        index = counter.integer('index')
        first = _constant_in_tuple(self.computations[caller], loop.operands[0], index)
        step = _counter_step(body, index)
        if first is None or not step:
            return None
        return max(0, -(-(int(bound.operands[0]) - first) // step))


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _constant_in_tuple(computation: Computation, name: str, index: int) -> int | None:
    """Returns the constant at `index` of the tuple `name`; None if it is not a constant."""
    instruction = computation[name]
    if instruction.op != 'tuple':
        return None
    instruction = computation[instruction.operands[index]]
    while instruction.op in ('copy', 'bitcast', 'convert'):
        instruction = computation[instruction.operands[0]]
    return int(instruction.operands[0]) if instruction.op == 'constant' else None


def _counter_step(body: Computation, index: int) -> int | None:
    """Returns what an iteration adds to the counter at `index`; None if that is not constant."""
    root = _root(body)
    if root.op != 'tuple':
        return None
    # Follows the sum from the new value back to the old one.
    instruction, step = body[root.operands[index]], 0
    while instruction.op in ('add', 'copy'):
        operands = [body[name] for name in instruction.operands]
        step += sum(int(operand.operands[0]) for operand in operands if operand.op == 'constant')
        others = [operand for operand in operands if operand.op != 'constant']
        if len(others) != 1:
            return None
        instruction = others[0]
    is_counter = instruction.op == 'get-tuple-element' and instruction.integer('index') == index
    return step if is_counter else None


def parse_hlo(text: str) -> Module:
    """Parses what `compiled.as_text()` prints; raises ValueError for a text without an entry."""
    computations, entry, current = {}, '', None
    for line in _logical_lines(text):
        if current is None or not line.startswith(' '):
            if match := _COMPUTATION_HEADER.match(line):
                current = computations.setdefault(match[1], {})
                entry = match[1] if line.startswith('ENTRY') else entry
        elif match := _INSTRUCTION.match(line):
            instruction = _parse_instruction(match, line)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError('no ENTRY computation in the text of the program')
    return Module(computations, entry)


def _logical_lines(text: str) -> list[str]:
    """Returns the lines without comments; attributes that span several lines are joined."""
    joined = []
    for line in re.sub(r'/\*index=\d+\*/', '', text).splitlines():
        begins = _INSTRUCTION.match(line) or _COMPUTATION_HEADER.match(line) or line == '}'
        if not joined or begins:
            joined.append(line)
        else:
            joined[-1] += line
    return joined


def _parse_instruction(match: re.Match, line: str) -> Instruction:
    """Parses a line that `_INSTRUCTION` matches: result types, operation, operands, attributes."""
    rest = line[match.end() :]
    end = _closing_parenthesis(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in sizes.split(',') if n))
        for dtype, sizes in _ARRAY.findall(rest[:end])
    )
    op, _, _ = rest[end:].strip().partition('(')
    start = rest.index('(', end)
    close = _closing_parenthesis(rest, start)
    inside = rest[start + 1 : close]
    operands = re.findall(r'%([^\s,()]+)', inside) or [part.strip() for part in inside.split(',')]
    return Instruction(match[2], arrays, op, tuple(operands), rest[close + 1 :], bool(match[1]))


def _closing_parenthesis(text: str, start: int) -> int:
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {'(': 1, ')': -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f'an unclosed parenthesis in {text[:80]!r}')

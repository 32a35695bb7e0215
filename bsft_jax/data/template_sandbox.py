"""Runs chat templates within bounds, since a template comes with a model from elsewhere.

Jinja's sandbox keeps a template from running code. It does not keep one from running for ever or
from filling the memory. Here loops, calls, filters and operators pay for their steps and for what
they make, before they make it where a size can explode; a template that cannot pay is an error.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jinja2
import jinja2.ext
import jinja2.visitor
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Price of one step, in characters made. Real templates take some 40 steps a turn.
_STEP_PRICE = 100
# What one rendering may spend: a million steps, and more for a longer conversation.
_BASE_BUDGET, _BUDGET_PER_CHARACTER = 100_000_000, 1000
# Processor time of one rendering, for steps that are cheap by count and yet slow.
_MAX_SECONDS = 10.0
# Largest integer argument of a call or filter, such as a width.
_MAX_ARGUMENT = 1 << 16
_MAX_INTEGER_BITS = 4096
# A width of more than six digits in a format.
_WIDE = re.compile(r'\d{7}')
# Calls and filters whose result may be longer than what they are given.
_GROWING = {
    *('replace', 'join', 'format', 'format_map', 'expandtabs', 'indent'),
    *('tojson', 'pprint', 'string', 'xmlattr', 'urlize'),
}
# Filters that `_Metered` writes into templates.
_COUNT, _CONCATENATE = '_bsft_count', '_bsft_concatenate'


class TemplateLimitError(jinja2.TemplateError):
    """Says that a template does more than any conversation needs."""


class _Budget(threading.local):
    """Holds what the rendering on this thread may still spend."""

    def __init__(self):
        # Constants are computed while a template is compiled, before any rendering.
        self.start(0)

    def start(self, input_size: int) -> None:
        """Starts the account of a rendering whose messages have so many characters."""
        self.left, self.steps = _BASE_BUDGET + _BUDGET_PER_CHARACTER * input_size, 0
        self.deadline = time.thread_time() + _MAX_SECONDS

    def spend(self, size: int = 0) -> None:
        """Pays for one step and `size` characters or items."""
        self.left -= _STEP_PRICE + size
        self.steps += 1
        if self.left < 0 or (self.steps % 256 == 0 and time.thread_time() > self.deadline):
            raise TemplateLimitError('it runs for too long, or writes too much')


_budget = _Budget()


def _size(value: Any) -> int:
    """Returns the length of a text or collection, 1 for anything else."""
    return len(value) if isinstance(value, (str, Sequence, Mapping)) else 1


def _written_size(value: Any) -> int:
    """Pays for a value and all that it contains, and returns its length as text, about."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        _budget.spend()
        return sum(map(_written_size, value))
    return _size(value)


def _check_operands(function_name: str, values: Sequence[Any]) -> None:
    """Pays for a call or filter before it runs."""
    numbers = [abs(value) for value in values if isinstance(value, int)]
    if numbers and max(numbers) > _MAX_ARGUMENT:
        raise TemplateLimitError(f'{function_name} is given a number above {_MAX_ARGUMENT}')
    if function_name not in _GROWING:
        return _budget.spend()
    sizes = sorted([1, 1, *numbers, *(_written_size(value) for value in values)])
    if 'format' in function_name and _WIDE.search(str(values[0])):
        raise TemplateLimitError('it asks for a column of more than a million characters')
    _budget.spend(sizes[-1] * sizes[-2])


def _count(values: Iterable[Any]) -> Iterator[Any]:
    """Yields the items of a loop, each of which is a step."""
    for value in values:
        _budget.spend()
        yield value


def _concatenate(values: Sequence[Any]) -> str:
    """Returns what `~` writes."""
    _budget.spend(_written_size(values))
    return ''.join(map(str, values))


@jinja2.pass_context
def _finalize(_, value: Any) -> Any:
    """Pays for what `{{ … }}` writes."""
    _budget.spend(len(value) if type(value) is str else _written_size(value))
    return value


def _metered(name: str, function: Any) -> Any:
    """Returns a filter that pays."""
    # Filters of Jinja may take a context or an environment first, which has no size.
    hidden = 1 if hasattr(function, 'jinja_pass_arg') else 0

    @functools.wraps(function)
    def call(*args, **kwargs):
        _check_operands(name, [*args[hidden:], *kwargs.values()])
        result = function(*args, **kwargs)
        _budget.spend(_size(result))
        return result

    return call


class _Metered(jinja2.visitor.NodeTransformer):
    """Rewrites a parsed template so that its loops and `~` pay."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _COUNT, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, _CONCATENATE, [], [], None, None, lineno=node.lineno)


class _Generation(jinja2.ext.Extension):
    """Reads `{% generation %}`, by which some templates mark answers, as a plain block."""

    tags: ClassVar = {'generation'}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """Refuses private names, as the namespaces of `transformers` do."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith('_'):
            raise jinja2.exceptions.SecurityError(f'a namespace has no place for {name!r}')
        super().__setitem__(name, value)


class _Environment(ImmutableSandboxedEnvironment):
    """Is the environment in which `transformers` renders chat templates, with a budget."""

    intercepted_binops = frozenset(['**', '*', '+', '%'])

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            finalize=_finalize,
        )
        self.filters['tojson'] = _to_json
        self.filters = {name: _metered(name, call) for name, call in self.filters.items()}
        self.filters |= {_COUNT: _count, _CONCATENATE: _concatenate}
        del self.globals['lipsum']
        self.globals |= {'raise_exception': _raise, 'dict': dict, 'namespace': _Namespace}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Metered().visit(super()._parse(source, name, filename))

    def call(self, context: Any, function: Any, /, *args, **kwargs) -> Any:
        # The sandbox wraps `format`.
        owner = getattr(getattr(function, '__wrapped__', function), '__self__', None)
        owners = [owner] if isinstance(owner, str) else []
        _check_operands(getattr(function, '__name__', ''), [*owners, *args, *kwargs.values()])
        result = super().call(context, function, *args, **kwargs)
        _budget.spend(_size(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        # Nearly every operator of a real template joins two texts.
        if operator == '+' and type(left) is type(right) is str:
            _budget.spend(len(left) + len(right))
            return left + right
        numbers = [value for value in (left, right) if isinstance(value, int)]
        if len(numbers) == 2:
            bits = left.bit_length(), right.bit_length()
            made = {'**': bits[0] * abs(right), '*': sum(bits)}.get(operator, 0)
            if made > _MAX_INTEGER_BITS:
                raise TemplateLimitError(f'it makes a number of more than {made} bits')
            _budget.spend()
        elif operator == '*' and numbers:
            _budget.spend(max(numbers[0], 0) * max(_size(left), _size(right)))
        elif operator == '%':
            _check_operands('format', [left, right])
        else:
            _budget.spend(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)


def _raise(message: str) -> None:
    """Raises the error of a template that refuses a conversation."""
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Returns JSON without Jinja's escapes of HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    _budget.start(len(template))
    return _Environment().from_string(template)


def render(template: str, turns: Sequence[Mapping[str, str]], **variables: Any) -> str:
    """Renders a conversation as `transformers` does.

    Raises whatever the template raises, and `TemplateLimitError` for one that does not end.
    """
    compiled = _compile(template)
    _budget.start(sum(len(text) for turn in turns for text in turn.values()))
    messages = [dict(turn) for turn in turns]
    return compiled.render(messages=messages, tools=None, documents=None, **variables)

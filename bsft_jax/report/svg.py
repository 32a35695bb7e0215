"""Bars with intervals and curves, as inline SVG that takes its colours from the page's CSS variables.

The page defines --ink, --muted, --grid and --c0 … --c7; `STYLE` turns them into the look of a chart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

COLOURS = 8
_DASHES = ('none', '8 3', '11 3 2 3', '4 2.5', '15 4')
_WIDTH = 380

STYLE = (
    'svg text{fill:var(--ink);font:11px system-ui,sans-serif}svg .head{font-weight:600;font-size:13px}'
    'svg .soft{fill:var(--muted)}svg .number{font-variant-numeric:tabular-nums}'
    'svg .grid{stroke:var(--grid);stroke-width:1}svg .axis{stroke:var(--muted);stroke-width:1}'
    'svg .whisker{stroke:var(--ink);stroke-width:1.3;fill:none}'
    'svg .mean{fill:none;stroke-width:2.2;stroke-linejoin:round}'
    'svg .seed{fill:none;stroke-width:.8;opacity:.45}'
    + ''.join(
        f'svg .b{i}{{fill:var(--c{i})}}svg .l{i}{{stroke:var(--c{i})}}svg circle.b{i}{{stroke:none}}'
        for i in range(COLOURS)
    )
)
OUTLINE = 'fill="none" stroke="currentColor"'  # where a viewer does not apply the page's style


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar; `low`, `high`: ends of its whisker. A value of None leaves a gap with its label."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    colour: int


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of (x, y) points, x ascending; `seed`: a thin line behind the mean of its arm."""

    points: tuple[tuple[float, float], ...]
    colour: int
    seed: bool = False


def bars(title: str, axis: str, items: Sequence[Bar]) -> str:
    """Horizontal bars between 0 and 1, each below its label, the value to the right of the plot."""
    left, right, top, pitch = 8, _WIDTH - 48, 30, 33
    bottom = top + pitch * len(items) + 4
    parts = [f'<text class="head" x="{left}" y="16">{escape(title)}</text>']
    x_of = _scale(0, 1, left, right)
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x = x_of(tick)
        parts.append(_segment('grid' if tick else 'axis', x, top - 4, x, bottom))
        parts.append(_text(x, bottom + 14, f'{tick:g}', 'soft', 'middle' if tick else 'start'))
    parts.append(_text((left + right) / 2, bottom + 30, axis, 'soft', 'middle'))
    for n, bar in enumerate(items):
        y = top + pitch * n
        parts.append(_text(left + 4, y + 9, bar.label))
        if bar.value is None:
            parts.append(_text(_WIDTH - 6, y + 23, '–', 'number', 'end'))
            continue
        hint = f'{bar.label}: {bar.value:.3f}'
        end = x_of(min(max(bar.value, 0), 1))
        shape = _box(left, y + 13, end - left, 11, bar.colour)
        if bar.low is not None and bar.high is not None:
            hint += f' ({bar.low:.3f} to {bar.high:.3f})'
            low, high, middle = x_of(bar.low), x_of(bar.high), y + 18.5
            shape += (
                f'<path class="whisker" {OUTLINE} d="M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}'
                f'M{high:.1f} {middle - 4}v8"/>'
            )
        parts.append(f'<g><title>{escape(hint)}</title>{shape}</g>')
        parts.append(_text(_WIDTH - 6, y + 23, f'{bar.value:.3f}', 'number', 'end'))
    return _svg(title, bottom + 38, parts)


def curves(
    title: str,
    x_axis: str,
    y_axis: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    doubling: Sequence[float] = (),
) -> str:
    """Curves over the step; y linear from 0 to 1 or what is above, or logarithmic over the values (all positive).

    `doubling` makes x logarithmic as well, with its marks at these values.
    """
    left, right, top, bottom = 44, _WIDTH - 10, 46, 236
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    first, last = min(0, *xs), max(xs)
    x_of = _scale(first, max(last, first + 1), left, right)
    if doubling:
        power_of = _scale(math.log2(min(xs)), math.log2(last), left + 12, right - 12)

        def x_of(x: float) -> float:
            return power_of(math.log2(x))

    if log:
        low, high = min(ys) / 1.1, max(ys) * 1.1
        log_of = _scale(math.log(low), math.log(high), bottom, top)
        marks = _log_ticks(low, high)

        def y_of(y: float) -> float:
            return log_of(math.log(y))
    else:
        highest = max(1, *ys)
        marks = ticks(0, highest)
        y_of = _scale(0, highest, bottom, top)
    parts = [f'<text class="head" x="8" y="16">{escape(title)}</text>', _text(8, 33, y_axis, 'soft')]
    for mark in marks:
        parts.append(_segment('grid', left, y_of(mark), right, y_of(mark)))
        parts.append(_text(left - 5, y_of(mark) + 4, f'{mark:g}', 'soft number', 'end'))
    for mark in doubling or ticks(first, last):
        parts.append(_segment('axis', x_of(mark), bottom, x_of(mark), bottom + 4))
        anchor = 'end' if x_of(mark) > right - 8 else 'middle'
        parts.append(_text(x_of(mark), bottom + 16, _step(mark), 'soft number', anchor))
    parts.append(_segment('axis', left, bottom, right, bottom))
    parts.append(_text((left + right) / 2, bottom + 32, x_axis, 'soft', 'middle'))
    for line in sorted(lines, key=lambda line: not line.seed):
        parts.append(_curve(line, x_of, y_of))
    return _svg(title, bottom + 40, parts)


def key(colour: int, *, line: bool) -> str:
    """The sample of a legend: the line of arm number `colour` with its dashes, or the box of its bars."""
    if line:
        dashes = _DASHES[colour % len(_DASHES)]
        shape = f'<path class="mean l{colour % COLOURS}" {OUTLINE} d="M0 6H40" stroke-dasharray="{dashes}"/>'
    else:
        shape = _box(0, 0, 12, 12, colour)
    return f'<svg class="key" viewBox="0 0 {40 if line else 12} 12" aria-hidden="true">{shape}</svg>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` of them, at steps of 1, 2 or 5 times 10^k."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = power * factor
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(n * step, 12) for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f'{f}e{p}') for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) <= 8:
            break
    return found if len(found) >= 3 else ticks(low, high)


def _curve(line: Line, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    colour, kind = line.colour % COLOURS, 'seed' if line.seed else 'mean'
    places = [(x_of(x), y_of(y)) for x, y in line.points]
    drawn = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
    dash = 'none' if line.seed else _DASHES[line.colour % len(_DASHES)]
    text = f'<polyline class="{kind} l{colour}" {OUTLINE} stroke-dasharray="{dash}" points="{drawn}"/>'
    if len(places) <= 12 and not line.seed:
        text += ''.join(f'<circle class="b{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.8"/>' for x, y in places)
    return text


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _step(value: float) -> str:
    return f'{value:,.0f}' if value == int(value) else f'{value:g}'


def _segment(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" {OUTLINE} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _box(x: float, y: float, width: float, height: float, colour: int) -> str:
    return (
        f'<rect class="b{colour % COLOURS}" x="{x}" y="{y}" width="{max(width, 0):.1f}" height="{height}"/>'
    )


def _text(x: float, y: float, text: str, kind: str = '', anchor: str = 'start') -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return head + ''.join(parts) + '</svg>'

"""Draws bars with intervals, and curves, as inline SVG.

Colours come from CSS variables that the page defines: --ink, --muted, --grid and --c0 … --c7.
`STYLE` applies them to the charts.
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
    'svg text{fill:var(--ink);font:11px system-ui,sans-serif}'
    'svg .head{font-weight:600;font-size:13px}'
    'svg .soft{fill:var(--muted)}svg .number{font-variant-numeric:tabular-nums}'
    'svg .grid{stroke:var(--grid);stroke-width:1}svg .axis{stroke:var(--muted);stroke-width:1}'
    'svg .whisker{stroke:var(--ink);stroke-width:1.3;fill:none}'
    'svg .mean{fill:none;stroke-width:2.2;stroke-linejoin:round}'
    'svg .seed{fill:none;stroke-width:.8;opacity:.45}'
    + ''.join(
        f'svg .b{i}{{fill:var(--c{i})}}svg .l{i}{{stroke:var(--c{i})}}'
        f'svg circle.b{i}{{stroke:none}}'
        for i in range(COLOURS)
    )
)
# For viewers that do not apply the page's style.
OUTLINE = 'fill="none" stroke="currentColor"'


@dataclasses.dataclass(frozen=True)
class Bar:
    """Represents one bar.

    Attributes:
      label: text above the bar.
      value: length of the bar; None leaves a gap below the label.
      low: lower end of the whisker, or None.
      high: upper end of the whisker, or None.
      colour: number of the arm.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    colour: int


@dataclasses.dataclass(frozen=True)
class Line:
    """Represents a curve.

    Attributes:
      points: (x, y) pairs, x ascending.
      colour: number of the arm.
      seed: whether it is one seed's thin line, drawn behind the mean of its arm.
    """

    points: tuple[tuple[float, float], ...]
    colour: int
    seed: bool = False


@dataclasses.dataclass(frozen=True)
class Dot:
    """Represents a dot.

    Attributes:
      x: in the units of the chart.
      y: likewise; both between 0 and 1 in `unit_square`.
      radius: in pixels of the drawing.
      colour: number of the arm.
      hint: what it stands for.
    """

    x: float
    y: float
    radius: float
    colour: int
    hint: str


def bars(title: str, axis: str, items: Sequence[Bar]) -> str:
    """Draws horizontal bars between 0 and 1, each below its label, with its value at the right."""
    left, right, top, pitch = 8, _WIDTH - 48, 30, 33
    bottom = top + pitch * len(items) + 4
    elements = [f'<text class="head" x="{left}" y="16">{escape(title)}</text>']
    x_of = _scale(0, 1, left, right)
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x = x_of(tick)
        elements.append(_segment('grid' if tick else 'axis', x, top - 4, x, bottom))
        elements.append(_text(x, bottom + 14, f'{tick:g}', 'soft', 'middle' if tick else 'start'))
    elements.append(_text((left + right) / 2, bottom + 30, axis, 'soft', 'middle'))
    for n, bar in enumerate(items):
        y = top + pitch * n
        elements.append(_text(left + 4, y + 9, bar.label))
        if bar.value is None:
            elements.append(_text(_WIDTH - 6, y + 23, '–', 'number', 'end'))
            continue
        hint = f'{bar.label}: {bar.value:.3f}'
        end = x_of(min(max(bar.value, 0), 1))
        shape = _box(left, y + 13, end - left, 11, bar.colour)
        if bar.low is not None and bar.high is not None:
            hint += f' ({bar.low:.3f} to {bar.high:.3f})'
            low, high, middle = x_of(bar.low), x_of(bar.high), y + 18.5
            shape += (
                f'<path class="whisker" {OUTLINE} d="M{low:.1f} {middle - 4}v8'
                f'M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 4}v8"/>'
            )
        elements.append(f'<g><title>{escape(hint)}</title>{shape}</g>')
        elements.append(_text(_WIDTH - 6, y + 23, f'{bar.value:.3f}', 'number', 'end'))
    return _svg(title, bottom + 38, elements)


def curves(
    title: str,
    x_axis: str,
    y_axis: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    doubling: Sequence[float] = (),
) -> str:
    """Draws curves over the step.

    Args:
      title: of the chart.
      x_axis: label of the x axis.
      y_axis: label of the y axis.
      lines: the curves.
      log: draws y logarithmically over the values, which must all be positive. Otherwise y is
        linear from 0 to 1, or to the largest value where that is above 1.
      doubling: when given, x is logarithmic with its marks at these values.
    """
    left, right, top, bottom = 44, _WIDTH - 10, 46, 236
    # Scales: value to pixel. The y axis of an SVG points down.
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
    elements = [
        f'<text class="head" x="8" y="16">{escape(title)}</text>',
        _text(8, 33, y_axis, 'soft'),
    ]
    # Grid and axes first: what comes later is drawn above them.
    for mark in marks:
        elements.append(_segment('grid', left, y_of(mark), right, y_of(mark)))
        elements.append(_text(left - 5, y_of(mark) + 4, f'{mark:g}', 'soft number', 'end'))
    for mark in doubling or ticks(first, last):
        elements.append(_segment('axis', x_of(mark), bottom, x_of(mark), bottom + 4))
        anchor = 'end' if x_of(mark) > right - 8 else 'middle'
        elements.append(_text(x_of(mark), bottom + 16, _step(mark), 'soft number', anchor))
    elements.append(_segment('axis', left, bottom, right, bottom))
    elements.append(_text((left + right) / 2, bottom + 32, x_axis, 'soft', 'middle'))
    # Thin lines of the seeds first, behind the means.
    for line in sorted(lines, key=lambda line: not line.seed):
        elements.append(_curve(line, x_of, y_of))
    return _svg(title, bottom + 40, elements)


def unit_square(
    title: str,
    x_axis: str,
    y_axis: str,
    lines: Sequence[Line],
    *,
    dots: Sequence[Dot] = (),
    markers: Sequence[tuple[float, float]] = (),
    diagonal: bool = False,
) -> str:
    """Draws curves and dots in a square of two shares, 0 to 1.

    Args:
      title: of the chart.
      x_axis: label of the x axis.
      y_axis: label of the y axis.
      lines: the curves.
      dots: drawn above the curves.
      markers: (x, y) of circles that a script moves. The chart says in `data-box` where 0 and 1
        lie: left, right, bottom, top.
      diagonal: whether to draw the line of equal shares.
    """
    left, right, top, bottom = 44, _WIDTH - 16, 46, 356
    x_of, y_of = _scale(0, 1, left, right), _scale(0, 1, bottom, top)
    elements = [
        f'<text class="head" x="8" y="16">{escape(title)}</text>',
        _text(8, 33, y_axis, 'soft'),
    ]
    for mark in (0, 0.2, 0.4, 0.6, 0.8, 1):
        elements.append(_segment('grid' if mark else 'axis', left, y_of(mark), right, y_of(mark)))
        elements.append(_text(left - 5, y_of(mark) + 4, f'{mark:g}', 'soft number', 'end'))
        elements.append(_segment('axis', x_of(mark), bottom, x_of(mark), bottom + 4))
        elements.append(_text(x_of(mark), bottom + 16, f'{mark:g}', 'soft number', 'middle'))
    elements.append(_text((left + right) / 2, bottom + 32, x_axis, 'soft', 'middle'))
    if diagonal:
        elements.append(_segment('diagonal', left, bottom, right, top))
    elements += [_curve(line, x_of, y_of) for line in lines]
    elements += [_dot(dot, x_of, y_of) for dot in dots]
    elements += [
        f'<circle class="marker" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="5.5"/>'
        for x, y in markers
    ]
    drawing = _svg(title, bottom + 40, elements)
    return drawing.replace('<svg ', f'<svg data-box="{left} {right} {bottom} {top}" ', 1)


def scatter(
    title: str,
    x_axis: str,
    y_axis: str,
    lines: Sequence[Line],
    dots: Sequence[Dot],
    *,
    log_y: bool = True,
) -> str:
    """Draws dots and curves over a logarithmic x, as far as they reach.

    Args:
      title: of the chart.
      x_axis: label of the x axis.
      y_axis: label of the y axis.
      lines: curves; x must be positive.
      dots: drawn above the curves; there must be one.
      log_y: whether y is logarithmic too, and so must be positive.
    """
    left, right, top, bottom = 44, _WIDTH - 16, 46, 300
    points = [point for line in lines for point in line.points] + [(dot.x, dot.y) for dot in dots]
    x_of, x_marks = _fitted(sorted(x for x, _ in points), left + 8, right - 8, log=True)
    y_of, y_marks = _fitted(sorted(y for _, y in points), bottom - 8, top + 4, log=log_y)
    elements = [
        f'<text class="head" x="8" y="16">{escape(title)}</text>',
        _text(8, 33, y_axis, 'soft'),
    ]
    for mark in y_marks:
        elements.append(_segment('grid', left, y_of(mark), right, y_of(mark)))
        elements.append(_text(left - 5, y_of(mark) + 4, f'{mark:g}', 'soft number', 'end'))
    for mark in x_marks:
        elements.append(_segment('axis', x_of(mark), bottom, x_of(mark), bottom + 4))
        elements.append(_text(x_of(mark), bottom + 16, _power(mark), 'soft number', 'middle'))
    elements.append(_segment('axis', left, bottom, right, bottom))
    elements.append(_text((left + right) / 2, bottom + 32, x_axis, 'soft', 'middle'))
    elements += [_curve(line, x_of, y_of) for line in lines]
    elements += [_dot(dot, x_of, y_of) for dot in dots]
    return _svg(title, bottom + 40, elements)


def key(colour: int, *, line: bool) -> str:
    """Draws the legend's sample of arm number `colour`: its dashed line, or the box of its bars."""
    if line:
        dashes = _DASHES[colour % len(_DASHES)]
        shape = (
            f'<path class="mean l{colour % COLOURS}" {OUTLINE} d="M0 6H40" '
            f'stroke-dasharray="{dashes}"/>'
        )
    else:
        shape = _box(0, 0, 12, 12, colour)
    return (
        f'<svg class="key" viewBox="0 0 {40 if line else 12} 12" aria-hidden="true">{shape}</svg>'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns at most `most` round numbers from `low` to `high`, 1, 2 or 5 times 10^k apart."""
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
    """Returns at most 8 round numbers for a log scale; evenly spaced ones for a short range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        marks = [float(f'{f}e{p}') for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(marks) <= 8:
            break
    return marks if len(marks) >= 3 else ticks(low, high)


def _fitted(
    values: Sequence[float], start: float, end: float, *, log: bool
) -> tuple[Callable[[float], float], list[float]]:
    """Returns a scale from the first to the last of sorted values, and its marks."""
    low, high = values[0], values[-1]
    if not log:
        high = high if high > low else low + 1
        return _scale(low, high, start, end), ticks(low, high)
    high = high if high > low * 1.001 else low * 1.001
    log_of = _scale(math.log(low), math.log(high), start, end)
    marks = _log_ticks(low, high)
    # Labels of an axis in powers of ten are wide.
    return lambda value: log_of(math.log(value)), marks[:: 1 + len(marks) // 6]


def _power(value: float) -> str:
    """Writes a large number as a multiple of a power of ten."""
    if value < 10_000:
        return f'{value:g}'
    factor, power = f'{value:.3e}'.split('e+')
    raised = str(int(power)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))
    return f'10{raised}' if float(factor) == 1 else f'{float(factor):g}·10{raised}'


def _dot(dot: Dot, x_of: Callable, y_of: Callable) -> str:
    return (
        f'<g><title>{escape(dot.hint)}</title><circle class="b{dot.colour % COLOURS}" '
        f'cx="{x_of(dot.x):.1f}" cy="{y_of(dot.y):.1f}" r="{dot.radius:.1f}"/></g>'
    )


def _curve(line: Line, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    colour, kind = line.colour % COLOURS, 'seed' if line.seed else 'mean'
    points = [(x_of(x), y_of(y)) for x, y in line.points]
    coordinates = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    dash = 'none' if line.seed else _DASHES[line.colour % len(_DASHES)]
    text = (
        f'<polyline class="{kind} l{colour}" {OUTLINE} stroke-dasharray="{dash}" '
        f'points="{coordinates}"/>'
    )
    # A curve of few points, such as the validation metrics, marks each of them.
    if len(points) <= 12 and not line.seed:
        text += ''.join(
            f'<circle class="b{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.8"/>' for x, y in points
        )
    return text


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _step(value: float) -> str:
    return f'{value:,.0f}' if value == int(value) else f'{value:g}'


def _segment(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line class="{kind}" {OUTLINE} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
    )


def _box(x: float, y: float, width: float, height: float, colour: int) -> str:
    return (
        f'<rect class="b{colour % COLOURS}" x="{x}" y="{y}" '
        f'width="{max(width, 0):.1f}" height="{height}"/>'
    )


def _text(x: float, y: float, text: str, kind: str = '', anchor: str = 'start') -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(title: str, height: float, elements: Sequence[str]) -> str:
    start = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return start + ''.join(elements) + '</svg>'

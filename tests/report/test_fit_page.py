"""Tests the charts and tables of the page of a scaling fit."""

import re
import statistics
import xml.etree.ElementTree as ElementTree

import pytest

from bsft_jax.report import fit_page, svg
from bsft_jax.scaling import losses
from tests.scaling.planted import iso_flop


def circles(drawing):
    return [
        (float(c.get('cx')), float(c.get('cy')), c.get('class')) for c in drawing.iter('circle')
    ]


def test_a_scatter_is_logarithmic():
    dots = [svg.Dot(10.0**k, 2.0**k, 3.0, k, f'dot <{k}>') for k in (2, 3, 5)]
    drawing = ElementTree.fromstring(svg.scatter('T', 'x', 'y', [], dots))
    (x2, y2, _), (x3, y3, _), (x5, y5, colour) = circles(drawing)
    assert (x5 - x2) / (x3 - x2) == pytest.approx(3, abs=0.01)
    assert (y5 - y2) / (y3 - y2) == pytest.approx(3, abs=0.01)
    assert y5 < y2 and colour == 'b5'
    assert [t.text for t in drawing.iter('title')] == ['dot <2>', 'dot <3>', 'dot <5>']
    linear = ElementTree.fromstring(svg.scatter('T', 'x', 'y', [], dots, log_y=False))
    (_, y2, _), (_, y3, _), (_, y5, _) = circles(linear)
    assert (y5 - y2) / (y3 - y2) == pytest.approx((32 - 4) / (8 - 4), abs=0.05)


def test_large_marks_are_powers_of_ten():
    dots = [svg.Dot(x, 1.0, 3.0, 0, '') for x in (1e18, 1e21)]
    drawing = ElementTree.fromstring(svg.scatter('T', 'x', 'y', [], dots))
    texts = [text.text for text in drawing.iter('text')]
    assert '10¹⁸' in texts and '10²¹' in texts


def test_the_page_shows_each_minimum_reason_and_warning(tmp_path):
    points = iso_flop(noise=0.002)
    fits = losses.fit_losses(points, losses.FitOptions(resamples=100))
    content = fits.content | {
        'options': {'points': 'a/<b>.csv'},
        'points': {'n': 28, 'sizes': 28, 'budgets': 4, 'left_out': 2},
        'refused': {'approach3.<x>': 'no & reason'},
        'disagreements': [
            {'exponent': 'alpha', 'methods': ['approach3', 'vpnls'], 'intervals': [[0, 1], [2, 3]]}
        ],
    }
    fit_page.write_fit_page(tmp_path / 'fit.html', content, points, fits, {})
    page = (tmp_path / 'fit.html').read_text(encoding='utf-8')
    assert 'Scaling fit of &lt;b&gt;.csv' in page and '; the 2 highest losses left out.' in page
    assert '<strong>approach3.&lt;x&gt;</strong>: no &amp; reason' in page
    assert (
        'approach3 and vpnls disagree on alpha: their 95 % intervals, 0.000 to 1.000 and 2.000 to '
        '3.000, do not overlap.'
    ) in page
    rows = re.findall(r'<tr class="">(.*?)</tr>', page)
    (third,) = [row for row in rows if row.startswith('<td class="name">VPNLS') and 'alpha' in row]
    assert third.endswith('<td class="">alpha</td>')
    drawings = [ElementTree.fromstring(x) for x in re.findall(r'<svg.*?</svg>', page, re.DOTALL)]
    by_name = {drawing.get('aria-label'): drawing for drawing in drawings}
    # 28 points and the minima of 4 parabolas.
    assert len(circles(by_name['Loss against compute'])) == 32
    lines = list(by_name['Iso-FLOP parabolas'].iter('polyline'))
    assert len(lines) == 4
    for line, budget in zip(lines, content['approach2']['budgets'], strict=True):
        drawn = [tuple(map(float, xy.split(','))) for xy in line.get('points').split()]
        bottom = max(y for _, y in drawn)
        # Several are equal to a tenth of a pixel.
        lowest = statistics.median(n for n, (_, y) in enumerate(drawn) if y == bottom)
        index = points.budgets[budget['budget']]
        low, high = points.params_P[index].min(), points.params_P[index].max()
        at = low * (high / low) ** (lowest / 59)
        assert at == pytest.approx(budget['params_optimum'], rel=0.05)

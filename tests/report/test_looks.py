"""Tests how pages look and whether everybody can use them.

axe-core (an npm package) is taken from the file that the environment variable AXE_CORE names, or
from `node_modules` of this repository; its test is skipped without it.
"""

import itertools
import os
import pathlib

import pytest

from bsft_jax import files
from tests.conftest import ROOT
from tests.report import pictures

EACH = [(name, width) for name in ('study', 'evaluation') for width in pictures.WINDOWS]


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    return pictures.write_pages(tmp_path_factory.mktemp('looks'))


@pytest.fixture(scope='module')
def same_fonts(browser):
    machine = files.read_json(pictures.FOLDER / 'machine.json')
    found = pictures.text_widths(browser)
    if machine['text_widths'] != found:
        pytest.skip(f'other fonts: text is {found} wide, in the pictures {machine["text_widths"]}')


@pytest.mark.parametrize('scheme', pictures.SCHEMES)
@pytest.mark.parametrize(('name', 'width'), EACH)
def test_a_page_looks_as_it_did(browser, pages, same_fonts, name, width, scheme):
    reference = (pictures.FOLDER / f'{name}-{width}-{scheme}.png').read_bytes()
    assert len(reference) <= 60_000

    def differs(scheme, **options):
        picture = pictures.shoot(browser, pages[name], width, scheme, **options)
        return pictures.difference(browser, picture, reference, width)

    assert differs(scheme) <= pictures.TOLERANCE
    # What must not pass: the other colours, and a page without its answer.
    (other,) = set(pictures.SCHEMES) - {scheme}
    assert differs(other) > 0.5
    assert differs(scheme, style='.outcome { visibility: hidden }') > 3 * pictures.TOLERANCE


@pytest.mark.parametrize(('name', 'width'), EACH)
def test_headings_follow_each_other_and_stay_within_the_window(browser, pages, name, width):
    page = browser.new_page(viewport={'width': width, 'height': 900})
    page.goto(pages[name].as_uri())
    boxes = [heading.bounding_box() for heading in page.locator('h1, h2').all()]
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map((x) => Number(x.tagName[1]))"
    )
    page.close()
    assert len(boxes) >= 8 and levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(box['x'] >= 0 and box['x'] + box['width'] <= width for box in boxes)
    ends = [box['y'] + box['height'] for box in boxes]
    assert all(box['y'] >= end for end, box in zip(ends, boxes[1:], strict=False))


@pytest.fixture(scope='module')
def axe():
    place = pathlib.Path(os.environ.get('AXE_CORE') or ROOT / 'node_modules/axe-core/axe.min.js')
    if not place.is_file():
        pytest.skip(f'axe-core is not at {place}: npm install axe-core')
    return place.read_text(encoding='utf-8')


@pytest.mark.parametrize('scheme', pictures.SCHEMES)
@pytest.mark.parametrize(('name', 'width'), EACH)
def test_axe_finds_no_serious_violation(browser, pages, axe, name, width, scheme):
    page = browser.new_page(viewport={'width': width, 'height': 900}, color_scheme=scheme)
    page.goto(pages[name].as_uri())
    for closed in page.locator('section > details > summary').all():
        closed.click()
    if name == 'evaluation':
        page.locator('.case summary').first.click()
        page.locator('.case .pair').first.wait_for()
    page.evaluate(axe)

    def violations():
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")['violations']
        return {
            violation['id']: [node['html'][:200] for node in violation['nodes']]
            for violation in found
            if violation['impact'] in ('serious', 'critical')
        }

    assert violations() == {}
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert list(violations()) == ['label']
    page.close()

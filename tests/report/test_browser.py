"""Tests the page in a browser: what moves, what is found, the keyboard, and that it is quiet.

They are skipped without the extra `browser` or a chromium on this machine.
"""

import csv
import dataclasses
import io

import pytest

from bsft_jax import files
from bsft_jax.report import cases, dial, eval_page
from tests.report import fake

EVIL = '</script><script>alert(1)</script><b>'


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """Returns two evaluations, whose page is beside their folders."""
    place = tmp_path_factory.mktemp('pages')
    of = fake.records(12)
    found = [
        fake.write_evaluation(place / 'one/eval/test', of),
        fake.write_evaluation(place / 'two/eval/test', of, seed=1, tokens=False),
    ]
    eval_page.write_page(place / 'two.html', 'Two', found)
    eval_page.write_page(place / 'one.html', 'One', found[:1])
    fake.write_study(place / 'study', of)
    return found, place


@pytest.fixture
def show(browser, two):
    """Returns a function that opens a page; at the end it must have been quiet."""
    noise, contexts = [], []

    def open_page(name, width=1280):
        context = browser.new_context(viewport={'width': width, 'height': 900})
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda message: noise.append(message.text))
        page.on('pageerror', lambda error: noise.append(str(error)))
        page.on('dialog', lambda dialog: noise.append(dialog.message))
        page.on('request', lambda request: noise.append(request.url))
        page.goto((two[1] / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in noise if not line.startswith(('file:', 'blob:'))] == []


def figures(card):
    return card.evaluate(
        "card => Object.fromEntries([...card.querySelectorAll('[data-figure]')]"
        '.map((place) => [place.dataset.figure, place.innerText]))'
    )


def expected(point, found, miss, alarm):
    cost = 100 * (miss * point['misses'] + alarm * point['overs']) / found['cases']
    ppv = point['ppv']
    return {
        'macro_f1': f'{point["macro_f1"]:.3f}',
        **{f'group:{name}': f'{value:.3f}' for name, value in point['groups'].items()},
        'over': f'{100 * point["over"]:.1f} %',
        'missed': f'{100 * point["missed"]:.1f} %',
        'alerts': f'{point["alerts"]:.1f}',
        'ppv': '–' if ppv is None else f'{100 * ppv:.1f} %',
        'cost': f'{cost:.1f}',
    }


def test_every_position_of_the_slider_shows_what_python_computes(show, two):
    page = show('two.html')
    for n, evaluated in enumerate(two[0]):
        found = dial.dial_points(evaluated)
        card = page.locator('.dial').nth(n)
        slider, points = card.locator('input'), found['points']
        shown = card.locator('output').inner_text()
        assert shown == '+0.00' and slider.input_value() != '0'
        slider.focus()
        page.keyboard.press('Home')
        for point in points:
            assert figures(card) == expected(point, found, 1, 1)
            dial_text = f'{point["dial"]:+.2f}'.replace('-', '−')
            assert card.locator('output').inner_text() == dial_text
            page.keyboard.press('ArrowRight')
        circle = page.locator('#dial circle.marker').nth(n)
        box = page.locator('#dial svg').last.get_attribute('data-box')
        left, right, bottom, top = map(float, box.split())
        x, y = (float(circle.get_attribute(name)) for name in ('cx', 'cy'))
        assert (x - left) / (right - left) == pytest.approx(points[-1]['over'])
        assert (y - bottom) / (top - bottom) == pytest.approx(points[-1]['missed'])


def test_every_rate_of_a_study_shows_what_each_arm_misses(show, two):
    page = show('study/report.html')
    found = files.read_json(two[1] / 'study/summary.json')['missed_by_rate']
    section, markers = page.locator('#arms'), page.locator('#arms circle.marker')
    lines, slider = section.locator('table').first.locator('tbody tr'), section.locator('input')
    assert slider.input_value() == '5' and section.locator('output').inner_text() == '5.0 %'
    slider.focus()
    page.keyboard.press('Home')
    left, right, bottom, top = map(
        float, section.locator('.charts svg').get_attribute('data-box').split()
    )
    for i in range(51):
        assert section.locator('output').inner_text() == f'{i}.0 %'
        for n, arm in enumerate(found['arms']):
            missed, low, high, over = (
                f'{100 * arm[key][i]:.1f} %' for key in ('missed', 'low', 'high', 'over')
            )
            cells = lines.nth(n).locator('td').all_text_contents()
            assert cells[2:4] == [f'{missed}{low} to {high}', over]
            x, y = (float(markers.nth(n).get_attribute(name)) for name in ('cx', 'cy'))
            assert (x - left) / (right - left) == pytest.approx(arm['over'][i], abs=1e-5)
            assert (y - bottom) / (top - bottom) == pytest.approx(arm['missed'][i], abs=1e-5)
        page.keyboard.press('ArrowRight')
    section.locator('summary').click()
    with page.expect_download() as waiting:
        page.get_by_role('button', name='Download arms by rate as CSV').click()
    assert len(waiting.value.path().read_text(encoding='utf-8-sig').splitlines()) == 52


def test_links_of_a_study_open_the_pages_of_its_arms(show):
    page = show('study/report.html')
    page.get_by_role('link', name='seed 1, test-auto').first.click()
    assert page.locator('h1').inner_text() == 'behavior_sft 1'
    assert page.locator('#dial input[type=range]').count() == 1


@pytest.mark.parametrize(('miss', 'alarm'), [(1, 1), (5, 1), (0.5, 3), (0, 1)])
def test_costs_set_the_dial(show, two, miss, alarm):
    page, found = show('one.html'), dial.dial_points(two[0][0])
    page.fill('#cost-miss', str(miss))
    page.fill('#cost-alarm', str(alarm))
    costs = [miss * point['misses'] + alarm * point['overs'] for point in found['points']]
    best = found['points'][costs.index(min(costs))]
    assert figures(page.locator('.dial')) == expected(best, found, miss, alarm)


def test_buttons_hold_the_dial_to_a_rate(show, two):
    page, found = show('one.html'), dial.dial_points(two[0][0])
    for most, name in ((0.05, 'At most 5 % uninvited'), (0.1, 'At most 10 %')):
        page.get_by_role('button', name=name).click()
        allowed = [point for point in found['points'] if point['over'] <= most]
        best = min(allowed, key=lambda point: point['missed'])
        assert figures(page.locator('.dial')) == expected(best, found, 1, 1)
    page.get_by_role('button', name='As trained').click()
    assert page.locator('.dial output').inner_text() == '+0.00'


def test_numbers_are_rounded_as_python_rounds_them(show):
    page = show('one.html')
    values = [
        0.0625,
        0.1875,
        0.5,
        2.5,
        0.0005,
        1.0005,
        12.25,
        12.75,
        1 / 3,
        0.065,
        99.95,
        0,
        556.25,
    ]
    for digits in (1, 2, 3):
        shown = page.evaluate(f'values => values.map((x) => fixed(x, {digits}))', values)
        assert shown == [f'{value:.{digits}f}' for value in values]


def number_found(page):
    text = page.locator('#cases [role=status]').inner_text()
    return 0 if text == 'No case fits.' else int(text.split(' of ')[1].split()[0])


def test_filters_and_search_find_what_they_say(show, two):
    page, (records, shown) = show('two.html'), cases.reader_data(two[0])
    rows = shown[0]['rows']
    assert number_found(page) == len(rows) == 72
    for name, (label, _) in cases.FLAGS.items():
        box = page.get_by_label(label, exact=False).first
        box.check()
        assert number_found(page) == sum(name in row['flags'] for row in rows) > 0
        box.uncheck()
    page.get_by_label('wrong').first.check()
    page.get_by_label('Category').select_option('medication_safety')
    wrong = [row for row in rows if 'wrong' in row['flags']]
    of = [row for row in wrong if records[row['record']]['category'] == 'medication_safety']
    assert number_found(page) == len(of) > 0
    page.get_by_label('wrong').first.uncheck()
    page.get_by_label('Category').select_option('')
    page.fill('#find', 'WARFARIN c3-')
    assert number_found(page) == 3
    page.fill('#find', 'nowhere to be found')
    assert number_found(page) == 0
    page.fill('#find', '')
    page.get_by_label('Evaluation').select_option('two')
    page.get_by_label('answers differ').check()
    other = {row['record']: row['prediction'] for row in rows}
    differ = [row for row in shown[1]['rows'] if other[row['record']] != row['prediction']]
    assert number_found(page) == len(differ) > 0


def test_links_lead_to_the_cases_against_a_setting(show, two):
    page, (_, shown) = show('two.html'), cases.reader_data(two[0])
    page.get_by_label('wrong').first.check()
    for n in (1, 0):
        for flag, words in (
            ('missed_5', 'it would then miss'),
            ('uninvited_5', 'step in uninvited'),
        ):
            page.get_by_role('link', name=words).nth(n).click()
            assert number_found(page) == sum(flag in row['flags'] for row in shown[n]['rows'])
            assert page.get_by_label('Evaluation').input_value() == str(n)
            label = cases.FLAGS[flag][0]
            assert page.locator('#cases fieldset input:checked').evaluate_all(
                'boxes => boxes.map((box) => box.value)'
            ) == [flag]
            assert label in page.locator('.case .tags, .case summary').first.inner_text()


def test_a_case_shows_its_branches_and_its_twin_with_marked_words(show, two):
    page, (records, shown) = show('one.html'), cases.reader_data(two[0][:1])
    row = shown[0]['rows'][0]
    record = records[row['record']]
    case = page.locator('.case').first
    assert case.locator('.id').inner_text() == record['id']
    case.locator('summary').click()
    case.locator('.pair').wait_for()
    halves = case.locator('.pair > div')
    assert halves.count() == 2 and 'Twin: ' in halves.nth(1).locator('h3').inner_text()
    fact = 'warfarin.' if record['id'].endswith('b') else 'nothing.'
    assert halves.nth(0).locator('mark').all_inner_texts() == [fact]
    lines = halves.nth(0).locator('tbody tr')
    assert lines.count() == 4
    for k in range(4):
        numbers = [row['options'][b][k] for b in (1, 2, 0)]
        assert lines.nth(k).locator('td:not(.name)').all_inner_texts() == [
            f'{x:.3f}' for x in numbers
        ]
    assert lines.nth(record['answer']).get_attribute('class') == 'right'
    picked = halves.nth(0).locator('.picked').inner_text()
    assert picked == f'{row["options"][row["branch"]][row["prediction"]]:.3f}'


def test_the_keyboard_is_enough(show):
    page = show('one.html')
    seen = set()
    for _ in range(150):
        page.keyboard.press('Tab')
        seen.add(page.evaluate('document.activeElement.id || document.activeElement.tagName'))
        if page.evaluate("document.activeElement.className === 'term'"):
            assert page.locator('#tip').is_visible()
            meaning = page.evaluate('document.activeElement.dataset.meaning')
            assert page.locator('#tip').inner_text() == meaning
            tip = page.locator('#tip').bounding_box()
            assert tip['y'] >= 0 and tip['y'] + tip['height'] <= 900
        if page.evaluate("document.activeElement.matches('.case summary')"):
            break
    assert {'ABBR', 'cost-miss', 'cost-alarm', 'find', 'category', 'order', 'SUMMARY'} <= seen
    page.keyboard.press('Enter')
    # A case opens after the event.
    page.locator('.case').first.locator('.pair').wait_for()
    page.get_by_role('button', name='Next').focus()
    page.keyboard.press('Enter')
    assert page.locator('#cases [role=status]').inner_text() == '26–50 of 72 cases'


def test_tables_are_downloaded_as_they_stand(show, two):
    page = show('one.html')
    with page.expect_download() as waiting:
        page.get_by_role('button', name='Download results as CSV').click()
    text = waiting.value.path().read_text(encoding='utf-8-sig')
    lines = list(csv.reader(io.StringIO(text)))
    overall = two[0][0].metrics['overall']
    assert lines[0] == ['group', 'macro-F1', '95 %', 'accuracy', 'n', 'cases']
    assert lines[1][:2] == ['overall', f'{overall["macro_f1"]:.3f}'] and len(lines) == 5
    page.get_by_label('wrong').first.check()
    with page.expect_download() as waiting:
        page.get_by_role('button', name='Download cases as CSV').click()
    assert waiting.value.suggested_filename == 'cases.csv'
    text = waiting.value.path().read_text(encoding='utf-8-sig')
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == number_found(page) and all('wrong' in line['flags'] for line in lines)


def test_a_formula_in_a_name_stays_text_in_a_spreadsheet(show):
    page = show('one.html')
    line = page.evaluate("csvLine(['=1+1', '@x', '-0.5', '−0.012', 'a,\"b', '+0.1', '-x'])")
    assert line == '\'=1+1,\'@x,-0.5,-0.012,"a,""b",+0.1,\'-x\r\n'


@pytest.mark.parametrize('width', [390, 1280])
@pytest.mark.parametrize('name', ['two.html', 'study/report.html'])
def test_nothing_is_wider_than_the_screen(show, name, width):
    page = show(name, width)
    for closed in page.locator('main > section > details > summary').all():
        closed.click()
    if name == 'two.html':
        page.locator('.case summary').first.click()
        page.locator('.case .pair').first.wait_for()
    wide = 'document.documentElement.scrollWidth - document.documentElement.clientWidth'
    assert page.evaluate(wide) == 0


def test_text_is_shown_as_text(show, two, tmp_path):
    of = [dataclasses.replace(record, id=record.id + EVIL) for record in fake.records(2)]
    turn = dataclasses.replace(of[0].messages[0], content=EVIL, name=EVIL)
    of = [dataclasses.replace(r, messages=(turn,), group=EVIL, category='') for r in of]
    found = fake.write_evaluation(tmp_path / 'run/eval/x', of, data=EVIL)
    found = [dataclasses.replace(found, name=EVIL), dataclasses.replace(found, name=EVIL + '2')]
    eval_page.write_page(two[1] / 'evil.html', EVIL, found)
    page = show('evil.html')
    page.locator('.case summary').first.click()
    page.locator('.case .pair').first.wait_for()
    assert page.title() == EVIL and page.locator('h1').inner_text() == EVIL
    assert EVIL in page.locator('.case .turn').first.inner_text()
    assert page.locator('b', has_text='alert').count() == page.locator('.turn b').count()
    assert page.locator('.dial h3').first.inner_text() == EVIL

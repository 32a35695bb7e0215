"""Fills in a rater's page in a headless Chromium, by keyboard alone.

Skipped without the package playwright, or where no Chromium is found: the one that playwright
installs, or Debian's.
"""

import json
import shutil

import pytest

from bsft_jax.review_kit import wording
from bsft_jax.review_kit.analyse import analyse
from bsft_jax.review_kit.make import MakeOptions, make
from bsft_jax.review_kit.sampling import Plan
from tests.review_kit import evaluations

playwright = pytest.importorskip('playwright.sync_api', reason='pip install playwright')

COMMENT = 'Größe < 3 & "ok" </script> 🙂'
KEYS = {'first': '1', 'second': '2', 'tie': 't', 'neither': 'n'}


@pytest.fixture(scope='module')
def browser():
    """Returns a headless Chromium."""
    with playwright.sync_playwright() as tools:
        path = shutil.which('chromium') or shutil.which('chromium-browser')
        try:
            found = tools.chromium.launch(executable_path=path, args=['--no-sandbox'])
        except playwright.Error as error:
            pytest.skip(f'no Chromium: {error.message.splitlines()[0]}')
        yield found
        found.close()


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """Returns the folder of a review with hostile text, of one rater with seven pages."""
    folder = tmp_path_factory.mktemp('study')
    rows = [
        {
            'id': f'r{i}',
            'case_id': f'c{i}',
            'split': 'test',
            'category': 'omission_detection',
            'messages': [{'role': 'user', 'name': '<b>Dr.</b>', 'content': f'</script> Case {i}'}],
            'options': [f'<script>alert(1)</script> {i}', f'Wait {i}'],
            'answer': 1,
        }
        for i in range(6)
    ]
    path = folder / 'data/test.jsonl'
    records = evaluations.write_records(path, rows)
    evals = tuple(
        str(
            evaluations.write_evaluation(
                folder / f'run{n}/eval/x', records, lambda i, r, n=n: n, f'jsonl:{path}'
            )
        )
        for n in range(2)
    )
    plan = Plan(items=5, raters=1, overlap=0, repeats=1, checks=1, seed=0)
    make(MakeOptions(evals, str(folder / 'review.html'), plan))
    return folder


@pytest.fixture
def opened(browser, study):
    """Returns the page of the rater, which must log nothing and ask for nothing."""
    context = browser.new_context(accept_downloads=True)
    page, heard = context.new_page(), []
    page.on('console', lambda message: heard.append(message.text))
    page.on('pageerror', lambda error: heard.append(str(error)))
    page.on('dialog', lambda dialog: heard.append(dialog.message))
    page.on('request', lambda request: heard.append(request.url))
    address = f'file://{study}/review-1.html'
    page.goto(address)
    yield page
    assert [line for line in heard if line != address and not line.startswith('blob:')] == []
    context.close()


def opinion(number):
    """Returns what the rater thinks of a page: the values of both answers, and the choice."""
    answers = [
        {scale.name: 1 + (number + n + side) % 5 for n, scale in enumerate(wording.SCALES)}
        for side in range(2)
    ]
    if number % 2:
        answers[1]['initiative'] = wording.NOT_APPLICABLE
    return answers, wording.CHOICES[number % 4]


def fill_in(page, number):
    """Types the opinion of a page; the first scale comes after the meaning of the numbers."""
    answers, choice = opinion(number)
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.textContent') == 'What the numbers mean'
    page.keyboard.press('Tab')
    for answer in answers:
        for value in answer.values():
            page.keyboard.press('0' if value == wording.NOT_APPLICABLE else str(value))
    page.keyboard.press(KEYS[choice])
    # The comment has the focus now, in which digits are digits.
    page.keyboard.type(f'{COMMENT} {number}')


def press_button(page, name):
    """Tabs to a button and presses it."""
    for _ in range(30):
        page.keyboard.press('Tab')
        focused = page.evaluate('document.activeElement.textContent')
        if focused == name:
            page.keyboard.press('Enter')
            return
    raise AssertionError(f'{name} cannot be reached by Tab')


def download(page, name):
    with page.expect_download() as found:
        press_button(page, name)
    return found.value


def test_a_page_is_filled_in_by_keyboard_and_survives_a_reload(opened, study, tmp_path):
    page, pages = opened, 7
    press_button(page, 'Start')
    for number in range(pages):
        assert page.title().startswith(f'Page {number + 1} of {pages}')
        assert page.locator('script').count() == 2
        fill_in(page, number)
        if number == 3:
            page.reload()
            assert page.title().startswith('Page 4 of 7')
            assert page.get_by_role('textbox').input_value() == f'{COMMENT} 3'
            assert page.locator('input:checked').count() == 9
        page.keyboard.press('Control+Enter')
    assert page.get_by_role('heading').all_text_contents() == ['All pages are filled in']
    found = download(page, 'Download the file')
    assert found.suggested_filename == 'rater-1.json'
    found.save_as(tmp_path / 'rater-1.json')
    file = json.loads((tmp_path / 'rater-1.json').read_text())
    assert file['complete'] is True and len(file['ratings']) == pages
    for number, rating in enumerate(file['ratings']):
        answers, choice = opinion(number)
        assert rating['answers'] == answers and rating['preference'] == choice
        assert rating['comment'] == f'{COMMENT} {number}'
        assert rating['seconds'] >= 0
    results = analyse(
        [str(study / 'KEY.json'), str(tmp_path / 'rater-1.json')], str(tmp_path / 'x')
    )
    assert results['judgements'] == 5 and len(results['comments']) == 6


def test_what_is_open_is_said_and_a_file_is_continued(opened, browser, study, tmp_path):
    page = opened
    press_button(page, 'Start')
    fill_in(page, 0)
    page.keyboard.press('Control+Enter')
    page.keyboard.press('Control+Enter')
    said = page.locator('.open-questions').text_content()
    assert said.startswith('Still open: Correctness of answer 1,') and 'Preference.' in said
    for _ in range(12):
        page.keyboard.press('Control+Enter')
    assert page.get_by_role('button', name='Page 2').count() == 1
    assert page.get_by_role('button', name='Page 1').count() == 0
    found = download(page, 'Download what there is')
    assert found.suggested_filename == 'rater-1-incomplete.json'
    found.save_as(tmp_path / 'part.json')

    other = browser.new_context().new_page()
    other.goto(f'file://{study}/review-1.html')
    chooser = other.locator('input[type=file]')
    changed = json.loads((tmp_path / 'part.json').read_text()) | {'rater': 2}
    (tmp_path / 'foreign.json').write_text(json.dumps(changed))
    chooser.set_input_files(tmp_path / 'foreign.json')
    other.get_by_text('This is not a file of this study and reviewer').wait_for()
    chooser.set_input_files(tmp_path / 'part.json')
    other.get_by_text('Loaded. 6 of 7 pages are still open.').wait_for()
    other.get_by_role('button', name='Start').press('Enter')
    assert other.title().startswith('Page 2 of 7')
    other.get_by_role('button', name='Back').press('Enter')
    assert other.get_by_role('textbox').input_value() == f'{COMMENT} 0'
    other.keyboard.press('Control+Enter')
    fill_in(other, 1)
    for _ in range(2):
        other.get_by_role('button', name='Back').press('Enter')
    chooser = other.locator('input[type=file]')
    for name, said in (
        ('part.json', 'Fewer pages are filled in there'),
        ('text.json', 'This is not a file of a review'),
    ):
        (tmp_path / 'text.json').write_text('{')
        chooser.set_input_files(tmp_path / name)
        other.get_by_text(said).wait_for()
    other.get_by_role('button', name='Continue').press('Enter')
    assert other.title().startswith('Page 3 of 7')
    other.context.close()


def test_half_a_character_has_the_same_checksum_in_python(opened, study, tmp_path):
    page = opened
    press_button(page, 'Start')
    for number in range(7):
        fill_in(page, number)
        page.evaluate(
            """() => {
              const box = document.querySelector('textarea');
              box.value = 'a\\ud800b\\u2028\\u0001\\n';
              box.dispatchEvent(new Event('input'));
            }"""
        )
        page.keyboard.press('Control+Enter')
    download(page, 'Download the file').save_as(tmp_path / 'rater-1.json')
    results = analyse(
        [str(study / 'KEY.json'), str(tmp_path / 'rater-1.json')], str(tmp_path / 'x')
    )
    assert results['judgements'] == 5


@pytest.mark.parametrize('width', [1280, 390])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened
    page.set_viewport_size({'width': width, 'height': 800})
    for _ in range(2):
        wide = page.evaluate('document.documentElement.scrollWidth')
        assert wide <= width
        press_button(page, 'Start') if page.get_by_role('button', name='Start').count() else None

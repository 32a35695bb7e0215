"""The browser of tests of pages."""

import shutil

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')


@pytest.fixture(scope='session')
def browser():
    """Returns a headless Chromium; skips without the extra `browser` or a chromium."""
    playwright = pytest.importorskip('playwright.sync_api', reason='the extra `browser`')
    with playwright.sync_playwright() as found:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        try:
            # Containers give no browser its sandbox; the pages are ours.
            yield found.chromium.launch(executable_path=path, args=['--no-sandbox'])
        except playwright.Error as error:
            pytest.skip(f'no chromium: {str(error).splitlines()[0]}')

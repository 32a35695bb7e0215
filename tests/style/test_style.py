"""Tests that the package is written and layered as CONTRIBUTING.md says."""

import re
import subprocess
import sys

import pytest

from tests.style import measure

# Searched for places that the formatter skips.
FOLDERS = ('bsft_jax', 'benchmarks', 'configs', 'launch', 'tests')


@pytest.fixture(scope='module')
def package():
    return measure.python_files()


@pytest.fixture(scope='module')
def docstrings(package):
    return [docstring for path in package for docstring in measure.docstrings(path)]


def test_docstrings_do_not_open_with_a_clause(docstrings):
    clauses = [f'{d.where}: {d.text.splitlines()[0]}' for d in docstrings if d.opens_with_clause]
    assert len(clauses) <= measure.MAX_RELATIVE_SHARE * len(docstrings), '\n'.join(clauses)


def test_docstrings_open_with_a_verb(docstrings):
    others = [d for d in docstrings if not d.opens_with_verb]
    share = 1 - len(others) / len(docstrings)
    assert share >= measure.MIN_VERB_SHARE, '\n'.join(f'{d.where}: {d.first_word}' for d in others)


def test_kernels_are_commented():
    rate = measure.comment_rate(measure.python_files([measure.PACKAGE / 'ops']))
    assert rate >= measure.MIN_OPS_COMMENTS


def test_files_functions_and_lines_are_short(package):
    too_large = [line for path in package for line in measure.too_large(path)]
    assert not too_large, '\n'.join(too_large)


def test_a_public_name_is_defined_in_two_modules_at_most(package):
    assert not measure.repeated_names(package)


def test_the_formatter_has_the_last_word():
    files = measure.python_files([measure.ROOT / folder for folder in FOLDERS])
    skipped = [str(path) for path in files if re.search(r'#\s*fmt:\s*(skip|off)', path.read_text())]
    # This file names what it looks for.
    assert skipped in ([], [__file__])


@pytest.mark.parametrize(
    'command',
    [
        ('ruff', 'check', '.'),
        ('ruff', 'format', '--check', '.'),
        ('pyrefly', 'check', '--summary=none'),
        ('importlinter.cli', 'lint-imports'),
    ],
    ids=lambda command: ' '.join(command[:2]),
)
def test_tools_find_nothing(command):
    tool, *arguments = command
    pytest.importorskip(tool.partition('.')[0], reason=f'{tool} is in the extra `test`')
    if tool.startswith('importlinter'):
        code = 'from importlinter.cli import lint_imports_command as run; run()'
        run = [sys.executable, '-c', code]
    else:
        run = [sys.executable, '-m', tool, *arguments]
    done = subprocess.run(run, cwd=measure.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    'text, opens_with_verb, opens_with_clause',
    [
        ('Returns the rows.', True, False),
        ('What a row holds.', False, True),
        ('Whether it fits.', False, True),
        ('Rows of a batch.', False, False),
        ('`path` of a file.', False, False),
        ('Scores records.', True, False),
    ],
)
def test_openings_are_told_apart(text, opens_with_verb, opens_with_clause):
    docstring = measure.Docstring('x:1', 'function', text)
    assert docstring.opens_with_verb == opens_with_verb
    assert docstring.opens_with_clause == opens_with_clause


def test_limits_find_what_breaks_them(tmp_path):
    parameters = ', '.join(f'p{i}' for i in range(9))
    body = '\n'.join(f'    x{i} = 0' for i in range(80))
    long_line = 'y = ' + "'" + 'a' * 100 + "'"
    (tmp_path / 'a.py').write_text(f'def f({parameters}):\n{body}\n{long_line}\n')
    broken = measure.too_large(tmp_path / 'a.py')
    assert [line.split(': ')[1].split()[1] for line in broken] == ['columns,', 'has', 'has']
    for name in 'bc':
        (tmp_path / f'{name}.py').write_text('def f(): ...\n')
    assert list(measure.repeated_names(measure.python_files([tmp_path]))) == ['f']

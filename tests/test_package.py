"""Checks the package as a whole: imports, public names, constraints, generated tables, scripts."""

import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import bsft_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIGHT = (
    'bsft_jax, bsft_jax.cli, bsft_jax.config, bsft_jax.behaviors, bsft_jax.evaluation.metrics, '
    'bsft_jax.report.table, bsft_jax.studies.summary, bsft_jax.records.record, '
    'bsft_jax.data.examples'
)


def test_light_modules_import_no_jax():
    heavy = ('jax', 'flax', 'torch', 'transformers')
    code = f'import sys, {LIGHT}; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')


def test_importing_the_public_names_starts_no_backend():
    code = (
        'import bsft_jax; [getattr(bsft_jax, name) for name in bsft_jax.__all__]; '
        'from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == 'False', done.stderr


def test_every_public_name_resolves():
    assert set(bsft_jax.__all__) <= set(dir(bsft_jax))
    for name in bsft_jax.__all__:
        assert callable(getattr(bsft_jax, name))
    with pytest.raises(AttributeError, match='nothing_of_the_kind'):
        _ = bsft_jax.nothing_of_the_kind


def test_no_public_name_is_a_submodule():
    modules = {m.name for m in pkgutil.iter_modules(bsft_jax.__path__)}
    assert 'cli' in modules
    assert not modules & set(bsft_jax.__all__)


def test_constraints_pin_everything_setup_names():
    pins = (ROOT / 'launch/constraints.txt').read_text().lower().replace('_', '-')
    requirements = re.findall(r"^ +'([a-zA-Z_-]+)[<>=]=", (ROOT / 'setup.py').read_text(), re.M)
    assert len(requirements) > 10
    for name in requirements:
        assert re.search(rf'^{name.lower().replace("_", "-")}==', pins, re.M), name


@pytest.mark.parametrize('page', ['README.md', 'docs/measured.md'])
def test_a_page_has_the_table_of_the_results(page):
    from benchmarks import table

    text = (ROOT / page).read_text()
    assert table.insert_table(page, text) == text, 'python -m benchmarks.table'


def test_the_readme_has_three_rows_of_the_table():
    from benchmarks import table

    few, every = (table.page_table(page).splitlines() for page in table.PAGES)
    assert every[0] == '**A train step beside eager torch:**'
    assert every[2].startswith('- float32 on `amx_tile`: 0.')
    assert set(few) < set(every) and tuple(few[:2]) == table.HEADER and len(few[2:]) == 3


@pytest.mark.parametrize('name', ['h100_full', 'v5e_lora'])
def test_a_picture_of_weak_scaling_is_that_of_its_result(name):
    path = ROOT / f'benchmarks/results/weak_scaling_{name}'
    code = f'import json; print(weak_scaling.draw_points(json.load(open("{path}.json"))["points"]))'
    command = [sys.executable, '-c', f'from benchmarks import weak_scaling; {code}']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == path.with_suffix('.svg').read_text(), done.stderr
    sizes = re.findall(r'<text class="soft number" x="([.0-9]+)" y="252.0" .*?>(\d+)<', done.stdout)
    assert [size for _, size in sizes] == ['8', '16', '32', '64', '128', '256']
    assert float(sizes[1][0]) - float(sizes[0][0]) > 50, 'each doubling is as wide'


def test_scripts_are_valid_bash():
    scripts = [*(ROOT / 'launch').glob('*.sh'), ROOT / '.ci/run']
    assert len(scripts) >= 4
    for script in scripts:
        done = subprocess.run(['bash', '-n', str(script)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ''), script


@pytest.mark.parametrize(
    'script, argument, code, words',
    [
        ('quickstart.sh', '--help', 0, 'the smallest study'),
        ('test.sh', '--help', 0, '--all adds the slow ones'),
        ('quickstart.sh', '--base=x', 2, 'takes nothing or --base=smollm2, got: --base=x'),
        ('quickstart.sh', '--jobs=4', 2, 'takes nothing or --base=smollm2, got: --jobs=4'),
    ],
)
def test_a_script_explains_itself_and_installs_nothing(tmp_path, script, argument, code, words):
    (tmp_path / 'launch').mkdir()
    for name in ('_env.sh', script):
        (tmp_path / 'launch' / name).write_text((ROOT / 'launch' / name).read_text())
    done = subprocess.run(
        ['bash', f'launch/{script}', argument],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert (done.returncode, words in done.stdout + done.stderr) == (code, True), done
    assert '#' not in done.stdout
    assert not (tmp_path / '.venv').exists()


@pytest.fixture
def old_python(tmp_path):
    """Makes a PATH on which every Python is too old."""
    for name in ('python3', 'python'):
        script = tmp_path / name
        script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n')
        script.chmod(0o755)
    for tool in ('dirname', 'head', 'cat', 'bash'):
        folder = next(
            d for d in os.environ['PATH'].split(os.pathsep) if os.access(f'{d}/{tool}', os.X_OK)
        )
        (tmp_path / tool).symlink_to(f'{folder}/{tool}')
    return str(tmp_path)


@pytest.mark.parametrize('script', ['quickstart.sh', 'test.sh'])
def test_a_python_that_is_too_old_is_named(tmp_path, old_python, script):
    copy = tmp_path / 'a copy'
    (copy / 'launch').mkdir(parents=True)
    for name in ('_env.sh', script):
        (copy / 'launch' / name).write_text((ROOT / 'launch' / name).read_text())
    command = ['bash', f'a copy/launch/{script}']
    env = {'PATH': old_python}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'needs Python 3.11 or newer' in done.stderr
    assert 'python3 (Python 3.9.1)' in done.stderr
    assert not (copy / '.venv').exists()

"""Tests the command `fit`: files, terminal, page and refusals."""

import csv
import json
import subprocess
import sys

import pytest

from bsft_jax import files
from bsft_jax.commands import fit
from bsft_jax.errors import UserError
from tests.conftest import ROOT
from tests.scaling.planted import TRUTH, iso_flop

FAST = ['--resamples=100']


@pytest.fixture
def table(tmp_path):
    """Returns a file of 28 models of two arms with a loss and macro-F1."""
    points = iso_flop(noise=0.002)
    lines = ['params,tokens,flops,seed,arm,macro_f1,loss']
    for i in range(len(points)):
        values = (x[i] for x in (points.params_P, points.tokens_P, points.flops_P))
        text = ','.join(repr(float(x)) for x in values)
        score = 0.8 - 30 * points.flops_P[i] ** -0.1
        lines.append(f'{text},0,behavior_sft,{score + 0.02},{float(points.loss_P[i])!r}')
        lines.append(f'{text},0,general_sft,{score - 3 * points.flops_P[i] ** -0.08},9')
    path = tmp_path / 'study.csv'
    path.write_text('\n'.join(lines))
    return path


def start(*flags):
    command = [sys.executable, '-m', 'bsft_jax.fit', *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_end_to_end(table, tmp_path):
    output = tmp_path / 'out'
    flags = [f'--points={table}', '--arm=behavior_sft', '--gain=behavior_sft-general_sft', *FAST]
    done = start(*flags, f'--output={output}')
    assert done.returncode == 0, done.stderr
    found = files.read_json(output / 'fit.json')
    assert found['points'] == {'n': 28, 'sizes': 28, 'clusters': 28, 'budgets': 4, 'left_out': 0}
    for method in ('approach3', 'vpnls'):
        assert found[method]['alpha'] == pytest.approx(TRUTH['alpha'], abs=0.03)
    assert found['approach2'].keys() >= {'params_exponent', 'tokens_exponent_interval', 'budgets'}
    (gain,) = found['gain'].values()
    assert gain['flops']['limit'] == pytest.approx(0.02, abs=1e-3)
    assert found['macro_f1'].keys() == {'behavior_sft', 'general_sft'}
    lines = done.stdout.splitlines()
    assert lines[0] == '28 points of 28 sizes and 4 budgets'
    (line,) = [line.split() for line in lines if line.startswith('approach3')]
    assert line[1] == f'{found["approach3"]["params_exponent"]:.3f}'
    with (output / 'fit_points.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert rows[3]['where'] == 'study.csv:8'
    surface = found['approach3']
    predicted = [
        surface['E']
        + surface['A'] * float(row['params']) ** -surface['alpha']
        + surface['B'] * float(row['tokens']) ** -surface['beta']
        for row in rows
    ]
    assert predicted == pytest.approx([float(row['approach3_loss']) for row in rows], rel=1e-12)
    page = (output / 'fit.html').read_text(encoding='utf-8')
    for foreign in ('http:', 'https:', 'src=', '@import', 'url(', '<link', 'href='):
        assert foreign not in page
    for text in ('Iso-FLOP parabolas', 'Loss against compute', 'Without one budget', 'study.csv:8'):
        assert text in page
    for method in ('approach2', 'approach3', 'vpnls'):
        assert f'>{found[method]["params_exponent"]:.3f}<' in page
    # The same seed gives the same bytes.
    again = tmp_path / 'again'
    fit.fit_points(
        fit.FitCommand(
            str(table), str(again), 'behavior_sft', 'behavior_sft-general_sft', resamples=100
        )
    )
    first, second = (json.loads((d / 'fit.json').read_text()) for d in (output, again))
    assert first.pop('options') != second.pop('options') and first == second
    assert (again / 'fit.html').read_bytes() == (output / 'fit.html').read_bytes()


def test_what_cannot_be_fitted_is_said(tmp_path):
    path = tmp_path / 'few.csv'
    path.write_text('params,tokens,loss\n1e6,1e8,3\n1e7,1e8,2.5\n1e8,1e8,2.2\n')
    done = start(f'--points={path}', f'--output={tmp_path / "out"}', *FAST)
    assert done.returncode == 0, done.stderr
    assert '  approach3: 3 sizes; a surface needs 5' in done.stdout
    found = files.read_json(tmp_path / 'out/fit.json')
    assert found['approach2'] is found['approach3'] is found['vpnls'] is None
    assert 'Not fitted' in (tmp_path / 'out/fit.html').read_text()


def test_a_fit_that_rests_on_few_points_says_so(table, tmp_path):
    lines = table.read_text().splitlines()
    lines = [lines[0]] + [line for line in lines if ',behavior_sft,' in line]
    cells = lines[7].split(',')
    cells[-1] = str(float(cells[-1]) * 1.05)
    lines[7] = ','.join(cells)
    table.write_text('\n'.join(lines))
    # Huber's loss hardly follows one point; squares do.
    flags = {'huber_delta': 1.0, 'resamples': 100}
    found = fit.fit_points(fit.FitCommand(str(table), str(tmp_path / 'out'), **flags))
    few = found['depends_on_few']
    assert few['where'] == ['study.csv:8'] and few['are_highest_losses']
    (warning,) = [x for x in fit.format_fits(found).splitlines() if 'few points' in x]
    assert 'without 1 (study.csv:8), which are the highest losses' in warning
    assert '--drop_highest=N' in warning
    options = fit.FitCommand(str(table), str(tmp_path / 'out'), drop_highest=1, **flags)
    found = fit.fit_points(options)
    assert found['points']['left_out'] == 1 and not found['depends_on_few']['depends']


@pytest.mark.parametrize(
    'text, flags, line',
    [
        ('params,tokens,loss\n', [], '{path}: holds no point; write a header and a row per model'),
        ('a,b\n1,2\n', [], '{path}: has no column loss, macro_f1 or gain; add loss'),
        ('tokens,loss\n1,2\n', [], '{path}: has no column params; add params'),
        ('params,tokens,loss\n1,2,x\n', [], "{path}:2: loss 'x' is not a number"),
        ('macro_f1\n0.5\n', [], '{path}: has macro_f1 but none of params, tokens and flops; '),
        ('params,macro_f1\n1,0.5\n', ['--arm=a'], '--arm: is about losses; {path} has no column'),
        ('params,macro_f1\n1,0.5\n', ['--gain=a-b'], '{path}: has no column arm; --gain needs arm'),
        (
            'params,tokens,loss\n1,2,3\n',
            ['--huber_delta=0'],
            '--huber_delta=0.0: is not a number from 1e-05 on',
        ),
        ('params,tokens,loss\n1,2,3\n', ['--output=/dev/null'], '--output=/dev/null: '),
    ],
)
def test_bad_input_is_one_line(tmp_path, text, flags, line):
    path = tmp_path / 'p.csv'
    path.write_text(text)
    values = dict(flag[2:].split('=') for flag in flags)
    if 'huber_delta' in values:
        values['huber_delta'] = float(values['huber_delta'])
    output = values.pop('output', str(tmp_path / 'out'))
    with pytest.raises(UserError) as error:
        fit.fit_points(fit.FitCommand(str(path), output, **values))
    assert str(error.value).startswith(line.format(path=path))
    assert not (tmp_path / 'out').exists()


def test_exit_codes(tmp_path):
    done = start(f'--points={tmp_path / "absent.csv"}', f'--output={tmp_path / "out"}')
    assert (done.returncode, done.stderr) == (2, f'error: {tmp_path}/absent.csv: no such file\n')
    done = start(f'--output={tmp_path / "out"}')
    assert (done.returncode, done.stderr) == (2, 'error: flag --points is missing\n')
    assert not list(tmp_path.iterdir())

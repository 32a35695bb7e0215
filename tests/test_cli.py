"""Tests of flags, configs, errors and exit codes, with a command of their own."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

APP = '''
"""An app for tests."""
import os
import signal
import sys

from absl import flags, logging

from bsft_jax import cli
from bsft_jax import config as config_lib
from bsft_jax.errors import Preempted, UserError

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string('workdir', None, 'Where to.', required=True)
LIMIT = flags.DEFINE_integer('limit', 0, 'How many.')


def main(_):
    assert 'jax' not in sys.modules
    assert os.environ['XLA_CLIENT_MEM_FRACTION'] == '0.92'
    logging.warning('noise')
    if WORKDIR.value == 'user':
        raise UserError('it is\\nbroken', where='tasks.jsonl:3', fix='repair it')
    if WORKDIR.value == 'preempted':
        raise Preempted('checkpoint 7 is saved')
    if WORKDIR.value == 'interrupted':
        os.kill(os.getpid(), signal.SIGINT)
    if WORKDIR.value == 'file':
        open('no/such\\x1b/file')
    if WORKDIR.value == 'disk':
        raise RuntimeError('I/O error: No space left on device (os error 28)')
    if WORKDIR.value == 'memory':
        raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\\nmore')
    if WORKDIR.value == 'unicode':
        b'\\xff'.decode()
    if WORKDIR.value == 'nesting':
        raise RecursionError('maximum recursion depth exceeded')
    if WORKDIR.value == 'full':
        print('x' * 100_000)
    if WORKDIR.value == 'bug':
        raise RuntimeError('a bug')
    c = config_lib.validate(CONFIG.value)
    print(c.arm, c.seed, c.data.packed, c.optimizer.learning_rate, c.data.source)


if __name__ == '__main__':
    cli.run(main)
'''

CONFIG = """
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError

def get_config(arg=''):
    if arg == 'raise':
        raise RuntimeError('no such\\nthing')
    if arg == 'exit':
        raise SystemExit(0)
    if arg == 'types':
        config = RunConfig()
        config.data.packed = 1
        return config
    if arg == 'section':
        return RunConfig(model=None)
    if arg == 'user':
        raise UserError('unknown arm', where='the variant')
    return None if arg == 'none' else {} if arg == 'dict' else RunConfig(arm=arg or 'behavior_sft')
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('with a space')
    (folder / 'app.py').write_text(APP)
    (folder / 'good.py').write_text(CONFIG)
    (folder / 'syntax.py').write_text('def get_config(:')
    (folder / 'empty.py').write_text('')
    return folder


def start(folder, *arguments):
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    command = [sys.executable, 'app.py', *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)


@pytest.mark.parametrize(
    ('arguments', 'printed'),
    [
        (['--config=good.py'], 'behavior_sft 0 True 0.0001 synthetic:1000'),
        (['--config=good.py:general_sft'], 'general_sft 0 True 0.0001 synthetic:1000'),
        (
            ['--config', 'good.py', '--config.seed', '4', '--noconfig.data.packed'],
            'behavior_sft 4 False 0.0001 synthetic:1000',
        ),
        (
            [
                '--config=good.py',
                '--config.data.packed=false',
                '--config.optimizer.learning_rate=1',
                '--config.data.source=jsonl:a b',
            ],
            'behavior_sft 0 False 1.0 jsonl:a b',
        ),
    ],
)
def test_config_and_overrides(folder, arguments, printed):
    done = start(folder, '--workdir=x', *arguments)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, '')


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        (['--config=good.py', '--config.nope=1'], "unknown config field 'nope'"),
        (['--config=good.py', '--config.data.sourc=x'], 'did you mean --config.data.source?'),
        (['--config=good.py', '--config.mode=lora'], 'did you mean --config.train.mode?'),
        (['--config=good.py', '--config.data=x'], "unknown config field 'data'"),
        (['--config=good.py', '--config.seed.x=1'], "unknown config field 'seed.x'"),
        (['--config=good.py', '--config.steps=1'], "unknown config field 'steps'"),
        (['--config=good.py', '--config.behaviors=(1,)'], 'set it in a config file'),
        (['--config=good.py', '--config.seed=abc'], '--config.seed=abc'),
        (['--config=good.py', '--config.seed=1.5'], '--config.seed=1.5'),
        (['--config=good.py', '--config.optimizer.b1=high'], '--config.optimizer.b1=high'),
        (['--config=good.py', '--config.data.packed=maybe'], "'maybe' is not true or false\n"),
        (['--config.seed=1', '--config=good.py'], 'before a value for --config'),
        (['--config.seed=1'], 'flag --config is missing'),
        ([], 'flag --config is missing'),
        (['--config'], 'Missing value'),
        (['--config=missing.py'], 'missing.py: no such config file'),
        (['--config=missing.py:arg', '--config.seed=1'], 'missing.py: no such config file'),
        (['--config=.'], 'no such config file'),
        (['--config=good.py:raise'], 'good.py: RuntimeError: no such thing'),
        (['--config=good.py:user'], 'good.py: the variant: unknown arm'),
        (['--config=good.py:none'], 'good.py: get_config() does not return a RunConfig'),
        (['--config=good.py:dict'], 'good.py: get_config() does not return a RunConfig'),
        (['--config=syntax.py'], 'syntax.py: SyntaxError'),
        (['--config=empty.py'], 'empty.py: defines no get_config'),
        (['--config=good.py:exit'], 'good.py: calls sys.exit(0) instead of returning a RunConfig'),
        (['--config=good.py:types'], '--config.data.packed: 1 is not true or false'),
        (['--config=good.py:section'], '--config.model: None is no ModelConfig'),
        (['--config=good.py', '--limit=\udcff'], 'error: --limit: is not valid text'),
        (['--config=good.py', '--limit', '\udcff'], 'error: --limit: is not valid text'),
        (['--config=good.py', '\udcff'], 'error: flags: is not valid text'),
        (
            ['--config=good.py', '--limit=\x1b[31m'],
            "invalid literal for int() with base 10: '\\x1b",
        ),
        (['--config=good.py', '--limit=many'], '--limit=many'),
        (['--config=good.py', '--limits=3'], "Unknown command line flag 'limits'"),
        (['--config=good.py', 'stray'], "unexpected argument 'stray'"),
    ],
)
def test_one_line_and_exit_2(folder, arguments, line):
    done = start(folder, '--workdir=x', *arguments)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
    assert line in done.stderr


def test_a_missing_required_flag(folder):
    done = start(folder, '--config=good.py')
    assert (done.returncode, done.stderr) == (2, 'error: flag --workdir is missing\n')


@pytest.mark.parametrize(
    ('workdir', 'code', 'stderr'),
    [
        ('user', 2, 'error: tasks.jsonl:3: it is broken; repair it\n'),
        ('preempted', 75, 'stopped: checkpoint 7 is saved\n'),
        ('interrupted', 130, 'interrupted\n'),
        ('file', 2, 'error: no/such\\x1b/file: No such file or directory\n'),
        ('disk', 2, 'error: No space left on device; make room and start again\n'),
        (
            'memory',
            2,
            'error: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.); lower '
            '--config.data.global_batch_rows or raise --config.train.gradient_accumulation_steps, '
            'set --config.train.remat=full, or lower --config.evaluation.tokens_per_batch\n',
        ),
        (
            'unicode',
            2,
            "error: text that is not valid Unicode ('utf-8' codec can't decode byte 0xff in "
            'position 0: invalid start byte); add -v=1 to see where\n',
        ),
        ('nesting', 2, 'error: data that is nested too deeply; add -v=1 to see where\n'),
    ],
)
def test_exit_codes(folder, workdir, code, stderr):
    done = start(folder, '--config=good.py', f'--workdir={workdir}')
    assert (done.returncode, done.stdout, done.stderr) == (code, '', stderr)


@pytest.mark.parametrize('verbose', [['-v=1'], ['--verbosity=1'], ['-v', '1']])
def test_the_traceback_of_a_user_error_on_request(folder, verbose):
    done = start(folder, '--config=good.py', '--workdir=user', *verbose)
    assert done.returncode == 2
    assert 'Traceback' in done.stderr
    assert done.stderr.endswith('error: tasks.jsonl:3: it is broken; repair it\n')


def test_a_bug_keeps_its_traceback(folder):
    done = start(folder, '--config=good.py', '--workdir=bug')
    assert done.returncode == 1
    assert 'Traceback' in done.stderr and 'error:' not in done.stderr


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_reader_may_close_the_pipe(folder, unbuffered):
    env = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': unbuffered}
    command = [sys.executable, 'app.py', '--config=good.py', '--workdir=full']
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=env)
    for name in ('full', 'x'):
        process = subprocess.Popen([*command[:-1], f'--workdir={name}'], **pipes)
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b'', 141)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs a device that is full')
@pytest.mark.parametrize('workdir', ['full', 'x'])
def test_a_full_device_is_one_line(folder, workdir):
    env = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': ''}
    command = [sys.executable, 'app.py', '--config=good.py', f'--workdir={workdir}']
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            command, cwd=folder, env=env, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert 'No space left on device' in done.stderr


def test_closed_outputs_are_no_error(folder):
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    command = f'exec {sys.executable} app.py --config=good.py --workdir=x >&- 2>&-'
    assert subprocess.run(command, shell=True, cwd=folder, env=env).returncode == 0


def test_help_is_no_error(folder):
    done = start(folder, '--help')
    assert done.returncode == 0
    assert 'An app for tests.' in done.stdout
    assert '--config' in done.stdout and '--workdir' in done.stdout


def test_an_app_without_a_config_flag(folder):
    app = """
    from bsft_jax import cli
    cli.run(lambda _: print('ran'))
    """
    (folder / 'plain.py').write_text(textwrap.dedent(app))
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    for arguments, code in (([], 0), (['--config=x.py'], 2)):
        command = [sys.executable, 'plain.py', *arguments]
        done = subprocess.run(command, capture_output=True, cwd=folder, env=env)
        assert done.returncode == code


def test_programs_are_cached_in_the_users_folder_or_where_they_say(monkeypatch, tmp_path):
    from bsft_jax import cli

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    cli.enable_compilation_cache()
    assert os.environ['JAX_COMPILATION_CACHE_DIR'] == str(tmp_path / 'bsft_jax' / 'xla')
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'elsewhere')
    cli.enable_compilation_cache()
    assert os.environ['JAX_COMPILATION_CACHE_DIR'] == 'elsewhere'


@pytest.mark.parametrize('name', ['XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'])
def test_a_run_has_the_gpu_memory_that_plans_count_on_or_what_users_say(name, monkeypatch):
    from bsft_jax.parallel import env

    for variable in env.MEMORY_FRACTION_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    env.set_gpu_memory_fraction()
    assert os.environ['XLA_CLIENT_MEM_FRACTION'] == str(env.GPU_MEMORY_FRACTION)
    monkeypatch.delenv('XLA_CLIENT_MEM_FRACTION')
    monkeypatch.setenv(name, '.4')
    env.set_gpu_memory_fraction()
    others = [variable for variable in env.MEMORY_FRACTION_VARIABLES if variable != name]
    assert [os.environ.get(variable) for variable in others] == [None]
    assert os.environ[name] == '.4'


def test_a_benchmark_sets_one_memory_fraction_for_its_contestants(monkeypatch):
    from benchmarks import peers
    from bsft_jax.parallel import env

    for variable in env.MEMORY_FRACTION_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    # Every app does this, so a contestant inherits the variable.
    env.set_gpu_memory_fraction()
    environment = peers.environment(2, 'gpu')
    assert sum(variable in environment for variable in env.MEMORY_FRACTION_VARIABLES) == 1

"""Tests of the command `evaluate --endpoint`: its flags, and what it writes."""

import subprocess
import sys

import pytest

from tests.chat_server import said
from tests.commands.asking import command, environment


def test_the_command_needs_no_jax_and_writes_no_key(server, data, tmp_path):
    # Nothing can be read, which is logged.
    server.reply = lambda body: said('No idea.')
    arguments = command(server, data, '--limit=3')[3:]
    code = (
        f'import sys, runpy; sys.argv[1:] = {arguments}\n'
        'try:\n'
        "    runpy.run_module('bsft_jax.evaluate', run_name='__main__')\n"
        'finally:\n'
        "    print([name for name in ('jax', 'flax', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env=environment(OPENAI_API_KEY='sk-secret'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '3 of 3 answers name no option' in done.stderr
    assert done.stderr.endswith('written: x/eval/test\n')
    assert done.stdout.splitlines()[2].startswith('test  auto')
    assert done.stdout.endswith('\n[]\n')
    assert {headers['Authorization'] for _, headers, _ in server.asked} == {'Bearer sk-secret'}
    written = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert sorted(path.name for path in written) == [
        'metrics.json',
        'predictions.jsonl',
        'report.html',
        'responses.jsonl',
    ]
    output = [done.stdout, done.stderr, *(path.read_text() for path in written)]
    assert not any('secret' in text for text in output)


@pytest.mark.parametrize(
    ('flags', 'line'),
    [
        (['--endpoint=http://h/v1', '--model=x'], '--model: does not go with --endpoint, whose'),
        (['--endpoint=http://h/v1', '--step=3'], '--step: does not go with --endpoint, whose'),
        (['--endpoint=http://h/v1', '--rescore=x'], '--endpoint: does not go with --rescore'),
        (['--endpoint=http://h/v1', '--data=x'], 'flag --endpoint_model is missing'),
        (['--endpoint=http://h/v1', '--endpoint_model=m'], 'flag --workdir is missing'),
        (['--workdir=x', '--concurrency=3'], '--concurrency: goes with --endpoint alone'),
        (['--workdir=x', '--endpoint_model=m'], '--endpoint_model: goes with --endpoint alone'),
        (['--endpoint=h', '--concurrency=0'], 'flag --concurrency=0: 0 is not an'),
        (['--endpoint=h', '--request_timeout=0'], 'flag --request_timeout=0: 0.0 is not'),
        (
            ['--endpoint=h', '--endpoint_model=m', '--data=synthetic:40', '--workdir=x'],
            '--endpoint=h: is not an address of http or https',
        ),
        (
            [
                '--endpoint=http://h',
                '--endpoint_model=m',
                '--data=synthetic:40',
                '--workdir=x',
                '--price_per_million=1',
            ],
            '--price_per_million=1: is not two prices; write IN,OUT',
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, line, tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'bsft_jax.evaluate', *flags],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith(f'error: {line}')
    assert done.stderr.count('\n') == 1 and not list(tmp_path.iterdir())

"""Tests of the campaign: a few tries, all of them (slow), and that a fault is not taken to hold."""

import os
import re
import subprocess
import sys

import pytest

from tests.campaign import __main__ as campaign
from tests.campaign.commands import Done, refused, succeeded
from tests.campaign.place import Case
from tests.conftest import ROOT


def run_campaign(*flags, timeout):
    # A campaign has one device, as a user's process has.
    environment = {k: v for k, v in os.environ.items() if k not in ('NPROC', 'XLA_FLAGS')}
    return subprocess.run(
        [sys.executable, '-m', 'tests.campaign', *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_a_few_tries_hold():
    done = run_campaign('--kind=maps', '--kind=config files', '--sample=4', timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == 'tried 8, held 8'


@pytest.mark.slow
def test_all_tries_hold():
    done = run_campaign(timeout=3 * 3600)
    tried, held = map(int, re.search(r'tried (\d+), held (\d+)$', done.stdout.strip()).groups())
    assert tried == held and tried >= 600, done.stderr[-10_000:]


def test_there_are_enough_tries_and_the_same_for_a_seed():
    cases, again, others = (campaign.all_cases(seed) for seed in (0, 0, 1))
    assert sum(case.tries for case in cases) >= 600
    assert sum(case.tries for case in cases if case.kind == 'kill -9 of train') >= 80
    names = [case.name for case in cases]
    assert names == [case.name for case in again] != [case.name for case in others]
    kinds = {case.kind for case in cases}
    sample = campaign.choose(cases, [], '', 2)
    assert {case.kind for case in sample} == kinds and len(sample) == 2 * len(kinds)


@pytest.mark.parametrize(
    'code, out, err, is_refused, is_success',
    [
        (2, '', 'error: x: is no number; write one\n', True, False),
        (2, '', '0%|  |\nerror: x: is no number\n', True, False),
        (2, '', 'error: x\nerror: y\n', False, False),
        (2, '', '', False, False),
        (2, '', 'error: y is wrong\n', False, False),
        (1, '', 'error: x\n', False, False),
        (2, '', 'Traceback (most recent call last):\nerror: x\n', False, False),
        (0, '', 'Traceback (most recent call last):\n', False, False),
        (0, 'done', '', False, True),
        (None, '', 'error: x\n', False, False),
        (-9, '', '', False, False),
    ],
)
def test_how_a_command_ended(code, out, err, is_refused, is_success):
    done = Done(code, out, err, 1.0)
    assert (refused(done, 'x') == '') == is_refused
    assert (succeeded(done) == '') == is_success


def test_a_case_that_fails_is_counted_and_does_not_end_the_campaign():
    def fail(_):
        raise AssertionError('no such file')

    class Here:
        def folder(self):
            return open(os.devnull)

    results = [
        (case.kind, case.name, case.tries, campaign.try_case(Here(), case), 0.1)
        for case in (
            Case('a', 'fails', fail),
            Case('a', 'seen', lambda _: 'a traceback', tries=3),
            Case('b', 'held', lambda _: '', tries=2),
        )
    ]
    assert campaign.count(results) == {'a': (4, 0), 'b': (2, 2), 'total': (6, 2)}

"""Tests of folders that are written whole: several writers, killed ones, what is left behind."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from bsft_jax import folders
from bsft_jax.errors import UserError
from tests.conftest import ROOT


def write(output, text):
    with folders.whole_folder(output) as folder:
        (folder / 'x').write_text(text)


def test_a_folder_is_replaced_whole_and_nothing_else_stays(tmp_path):
    for text in ('one', 'two'):
        write(tmp_path / 'a' / 'out', text)
        assert (tmp_path / 'a' / 'out' / 'x').read_text() == text
        assert os.listdir(tmp_path / 'a') == ['out']
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / 'a' / 'out').stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize(
    ('error', 'seen'),
    [
        (OSError(errno.ENOSPC, 'full'), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (UserError('no'), UserError),
    ],
)
def test_what_fails_leaves_nothing_and_what_was_there(error, seen, tmp_path):
    write(tmp_path / 'out', 'one')
    for output in (tmp_path / 'out', tmp_path / 'new' / 'below' / 'out'):
        with pytest.raises(seen), folders.whole_folder(output) as folder:
            (folder / 'x').write_text('two')
            raise error
    assert os.listdir(tmp_path) == ['out'] and (tmp_path / 'out' / 'x').read_text() == 'one'


@pytest.mark.parametrize('there', [False, True])
def test_the_first_of_two_writers_wins(there, tmp_path):
    output = tmp_path / 'out'
    if there:
        write(output, 'zero')
    told = pytest.raises(UserError, match='out: another command wrote it meanwhile.*start again')
    with told, folders.whole_folder(output):
        write(output, 'first')
    assert (output / 'x').read_text() == 'first' and os.listdir(tmp_path) == ['out']


KILLED = """
import os, signal, sys
from bsft_jax import folders
replace, calls = os.replace, []
def die(old, new):
    calls.append(new)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)
os.replace = die
with folders.whole_folder(sys.argv[1]) as folder:
    (folder / 'x').write_text('two')
"""


@pytest.mark.parametrize('call', [1, 2])
def test_a_killed_writer_is_cleared_away_by_the_next_one(call, tmp_path, capsys):
    """Tests a kill before the swap, and one between its two renames."""
    output = tmp_path / 'out'
    write(output, 'one')
    command = [sys.executable, '-c', KILLED, str(output), str(call)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert output.exists() == (call == 1) and len(os.listdir(tmp_path)) == call % 2 + 1
    with folders.whole_folder(output):
        assert (output / 'x').read_text() == 'one'
    assert os.listdir(tmp_path) == ['out']
    assert ('restored' in capsys.readouterr().err) == (call == 2)


def test_a_living_writer_and_other_folders_are_left_alone(tmp_path):
    output = tmp_path / 'out[1]*'
    for name in ('out[1]*.partial', '.out[1]*.writing-mine', '.out1x.writing-mine'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'mine').write_text('mine')
        (tmp_path / name / 'lock').write_text('mine')
    with pytest.raises(UserError, match='meanwhile'), folders.whole_folder(output) as folder:
        write(output, 'first')
        assert folder.exists()
    assert len(os.listdir(tmp_path)) == 4

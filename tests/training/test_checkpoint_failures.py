"""Tests of steps that cannot be saved or are not what they were: one line, nothing left behind."""

import contextlib
import errno
import json
import os
import resource
import shutil
import threading
import time

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from bsft_jax.errors import UserError
from bsft_jax.training import fingerprints, run_record
from bsft_jax.training.checkpoint import Checkpoints
from tests.training.test_checkpoint import flip_byte, make_state, save, tensorstore_error


@contextlib.contextmanager
def largest_file(size):
    """Limits the size of files, as a quota does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def save_step(checkpoints, step):
    checkpoints.save(
        make_state(step=step), data={'step': step}, clock={'seconds': 1.0}, config={'arm': 'x'}
    )


def test_a_quota_is_noticed_without_another_save(tmp_path, capfd):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save_step(checkpoints, 1)
    checkpoints.wait()
    (tmp_path / 'checkpoints' / 'notes.orbax-checkpoint-tmp').mkdir()
    with pytest.raises(UserError) as error, largest_file(3000):
        save_step(checkpoints, 2)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            checkpoints.check()
            time.sleep(0.01)
    assert str(error.value) == (
        f'{tmp_path}/checkpoints: step 2 could not be saved ({os.strerror(errno.EFBIG)}); '
        'step 1 is saved; make room and start again'
    )
    left = sorted(path.name for path in (tmp_path / 'checkpoints').iterdir())
    assert left == ['1', 'notes.orbax-checkpoint-tmp']
    checkpoints.close()
    assert 'Traceback' not in capfd.readouterr().err
    assert run_record.saved_step(tmp_path) == 1
    assert int(Checkpoints(tmp_path).restore(make_state()).state.step) == 1


def test_the_first_save_that_fails_is_told_when_the_run_ends(tmp_path, capfd):
    with (
        pytest.raises(UserError, match='step 1 could not be saved .*; no step is saved; make room'),
        largest_file(3000),
        contextlib.closing(Checkpoints(tmp_path)) as checkpoints,
    ):
        save_step(checkpoints, 1)
    assert list((tmp_path / 'checkpoints').iterdir()) == []
    assert run_record.saved_step(tmp_path) is None
    assert 'Traceback' not in capfd.readouterr().err


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        tensorstore_error("RESOURCE_EXHAUSTED: Failed to write [os_error_code='28']"),
    ],
)
@pytest.mark.parametrize('method', ['save', 'wait_until_finished'])
def test_a_full_disk_is_told_wherever_it_appears(method, error, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save_step(checkpoints, 1)
    checkpoints.wait()

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, method, fails)
    with pytest.raises(UserError, match=r'step 2 could not be saved \(No space left on device\)'):
        save_step(checkpoints, 2)
        checkpoints.wait()


def test_an_error_that_is_not_the_systems_is_raised_as_it_is(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise KeyError('a bug')

    monkeypatch.setattr(ocp.CheckpointManager, 'save', fails)
    with pytest.raises(KeyError):
        save_step(Checkpoints(tmp_path), 1)


@pytest.fixture
def two_steps(tmp_path):
    save(tmp_path, make_state(step=1), make_state(value=2.0, step=2))
    return tmp_path


def edit(folder, item, changes):
    path = folder / item / 'metadata'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


ITEMS = [
    ('data', {'step': 3}),
    ('data', {'more': 1}),
    ('clock', {'seconds': 9.0}),
    ('clock', {'tokens': 'x'}),
    ('clock', {'hours': 1.0}),
    ('config', {'arm': 'other'}),
]


@pytest.mark.parametrize('item, changes', ITEMS)
def test_a_changed_item_is_damage(item, changes, two_steps, capsys):
    edit(two_steps / 'checkpoints' / '2', item, changes)
    restored = Checkpoints(two_steps, read_only=True).restore(make_state())
    assert int(restored.state.step) == 1
    assert f'checkpoint 2 is damaged ({item} is not as it was saved)' in capsys.readouterr().err


@pytest.mark.parametrize(
    'item, changes', [('data', {'step': 3}), ('clock', {'tokens': 'x'}), ('clock', {'hours': 1.0})]
)
def test_a_step_without_digests_is_restored_unless_an_item_makes_no_sense(item, changes, two_steps):
    """Tests the steps of earlier versions."""
    for step in two_steps.glob('checkpoints/*'):
        path = step / 'fingerprints' / 'metadata'
        marks = json.loads(path.read_text())
        del marks['json']
        path.write_text(json.dumps(marks))
    (two_steps / 'run.json').unlink()
    assert int(Checkpoints(two_steps, read_only=True).restore(make_state()).state.step) == 2
    edit(two_steps / 'checkpoints' / '2', item, changes)
    assert int(Checkpoints(two_steps, read_only=True).restore(make_state()).state.step) == 1


@pytest.mark.parametrize('marks', ['[]', '{"kind": "murmur3"}', '{"kind": "murmur3", "saved": 3}'])
def test_broken_fingerprints_are_damage(marks, two_steps):
    (two_steps / 'checkpoints' / '2' / 'fingerprints' / 'metadata').write_text(marks)
    assert int(Checkpoints(two_steps, read_only=True).restore(make_state()).state.step) == 1


def test_who_uses_an_older_step_says_which(two_steps, capsys):
    save(two_steps, make_state(step=3))
    for step in '23':
        flip_byte(two_steps / 'checkpoints' / step)
    Checkpoints(two_steps, read_only=True).restore(make_state())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(' (')[0] for line in lines] == [
        'checkpoint 3 is damaged',
        'checkpoint 2 is damaged',
    ]
    assert all(line.endswith('left where it is; step 1 is used') for line in lines)
    Checkpoints(two_steps).restore(make_state())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(f'moved to {two_steps}/damaged/3; step 1 is used')


def test_a_step_that_is_gone_is_named(two_steps, capsys):
    shutil.rmtree(two_steps / 'checkpoints' / '2')
    Checkpoints(two_steps, read_only=True).restore(make_state())
    assert capsys.readouterr().err == 'checkpoint 2 is gone; step 1 is used\n'


def test_steps_stay_where_they_are_when_all_are_damaged(two_steps):
    for step in '12':
        flip_byte(two_steps / 'checkpoints' / step)
    for _ in range(2):
        with pytest.raises(UserError, match=r'every checkpoint is damaged \(step 2: '):
            Checkpoints(two_steps).restore(make_state())
    assert sorted(path.name for path in (two_steps / 'checkpoints').iterdir()) == ['1', '2']


def test_a_damaged_step_does_not_replace_another_one(two_steps):
    mine = two_steps / 'damaged' / '2'
    mine.mkdir(parents=True)
    (mine / 'mine.txt').write_text('mine')
    flip_byte(two_steps / 'checkpoints' / '2')
    Checkpoints(two_steps).restore(make_state())
    assert (mine / 'mine.txt').exists() and (two_steps / 'damaged' / '2-2').is_dir()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_weights_that_are_not_finite_are_neither_saved_nor_used(value, tmp_path, monkeypatch):
    state = make_state(step=1)
    rows = state.trainable['behavior']['input'].at[0, 3].set(value)
    broken = state.replace(trainable=state.trainable | {'behavior': {'input': rows}})
    with pytest.raises(UserError, match='after step 1 behavior/input is not finite; it is not'):
        save(tmp_path, broken)
    monkeypatch.setattr(fingerprints, 'not_finite', lambda _: [])
    save(tmp_path, broken)
    monkeypatch.undo()
    for step in (None, 1):
        with pytest.raises(UserError, match='step 1 has weights that are not finite, first behav'):
            Checkpoints(tmp_path, read_only=True).restore(make_state(), step)


def test_whole_numbers_are_finite():
    tree = {'a': jnp.zeros(3, jnp.int8), 'b': {'c': jnp.ones(2, jnp.bfloat16)}}
    assert fingerprints.not_finite(tree) == []
    assert fingerprints.not_finite({'a': jnp.array([jnp.nan]), **tree}) == []
    assert fingerprints.not_finite({**tree, 'a': jnp.array([jnp.nan])}) == ['a']


def test_a_step_that_may_not_be_read_is_named(two_steps, monkeypatch):
    def fails(*_, **__):
        raise tensorstore_error("PERMISSION_DENIED: Error opening file [os_error_code='13']")

    monkeypatch.setattr(ocp.CheckpointManager, 'restore', fails)
    with pytest.raises(PermissionError) as error:
        Checkpoints(two_steps).restore(make_state())
    assert error.value.filename == str(two_steps / 'checkpoints' / '2')
    assert not (two_steps / 'damaged').exists()


def test_a_file_for_the_checkpoints_is_refused(tmp_path):
    (tmp_path / 'checkpoints').write_text('')
    with pytest.raises(UserError, match='checkpoints: is not a folder'):
        Checkpoints(tmp_path, read_only=True)


def test_an_emptied_part_of_a_step_is_no_noise(two_steps, capfd):
    for path in (two_steps / 'checkpoints' / '2').rglob('array_metadatas/*'):
        path.write_text('')
    restored = Checkpoints(two_steps, read_only=True).restore(make_state())
    assert int(restored.state.step) in (1, 2)
    assert 'Traceback' not in capfd.readouterr().err


def test_writes_that_go_on_after_one_has_failed_leave_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    unfinished = tmp_path / 'checkpoints' / '1.orbax-checkpoint-tmp' / 'state' / 'd'

    def write():
        for number in range(30):
            unfinished.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (unfinished / str(number)).write_bytes(b'x')
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    checkpoints._remove_unfinished(1)
    writer.join()
    assert list((tmp_path / 'checkpoints').iterdir()) == []

"""Tests of checkpoints: whole or set aside, restored on any mesh, tied to their base."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from bsft_jax.config import MeshConfig, OptimizerConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.training import checkpoint, fingerprints, optimizer, state
from bsft_jax.training.checkpoint import Checkpoints


def make_state(regexes=('.*',), sizes=(1, 1, 1, 1), value=1.0, step=0):
    rng = np.random.default_rng(0)
    params = {
        'embed': {'table': (value * rng.normal(size=(128, 16))).astype(np.float32)},
        'behavior': {'input': rng.normal(size=(2, 16)).astype(np.float32)},
    }
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    params = jax.device_put(params, sharding.shardings(params, mesh))
    initial = state.create(params, regexes, optimizer.make_optimizer(OptimizerConfig()), mesh)
    return initial.replace(step=jax.device_put(jnp.int32(step), sharding.replicated(mesh)))


def save(directory, *states):
    checkpoints = Checkpoints(directory, keep=5)
    for current in states:
        checkpoints.save(
            current, data={'step': int(current.step)}, clock={'seconds': 1.5}, config={}
        )
    checkpoints.wait()
    checkpoints.close()


def flip_byte(directory):
    """Overwrites a few bytes at several offsets of every data file of a step.

    A single offset could hit nodes that orbax wrote and replaced while it saved, which nobody
    reads, and a single file could hold moments alone, which evaluation does not read.
    """
    files = [p for p in directory.rglob('*') if p.is_file() and p.parent.name == 'd']
    for path in files:
        content = bytearray(path.read_bytes())
        for offset in range(len(content) // 32, len(content), max(len(content) // 16, 1)):
            content[offset : offset + 8] = bytes(b ^ 0x01 for b in content[offset : offset + 8])
        path.write_bytes(content)
    assert files


def test_restores_on_another_mesh(tmp_path):
    save(tmp_path, make_state(step=3))
    restored = Checkpoints(tmp_path).restore(make_state(sizes=(2, 2, 1, 2), value=5.0))
    assert int(restored.state.step) == 3 and restored.data == {'step': 3}
    assert restored.clock == {'seconds': 1.5}
    assert len(restored.state.params['embed']['table'].sharding.device_set) == 8
    assert fingerprints.compute(restored.state.params) == fingerprints.compute(make_state().params)


def test_a_flipped_byte_is_detected_and_the_step_before_is_used(tmp_path, capsys):
    save(tmp_path, make_state(step=1), make_state(value=2.0, step=2))
    flip_byte(tmp_path / 'checkpoints' / '2')
    restored = Checkpoints(tmp_path).restore(make_state())
    assert int(restored.state.step) == 1
    assert (tmp_path / 'damaged' / '2').is_dir() and not (tmp_path / 'checkpoints' / '2').exists()
    assert 'checkpoint 2 is damaged' in capsys.readouterr().err


@pytest.mark.parametrize('read_only', [False, True])
def test_a_step_of_another_base_is_reported_and_stays(read_only, tmp_path):
    save(tmp_path, make_state(step=1))
    wider = make_state()
    table = jnp.zeros((130, 16), device=jax.tree.leaves(wider.trainable)[0].sharding)
    wider = wider.replace(trainable=wider.trainable | {'embed': {'table': table}})
    with pytest.raises(UserError, match=r'embed/table is \[128, 16\] in .*, \[130, 16\] here'):
        Checkpoints(tmp_path, read_only=read_only).restore(wider)
    assert (tmp_path / 'checkpoints' / '1').is_dir() and not (tmp_path / 'damaged').exists()


def test_a_step_of_another_version_is_reported_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, 'KIND', 'older')
    save(tmp_path, make_state(step=1))
    monkeypatch.undo()
    with pytest.raises(UserError, match='another version'):
        Checkpoints(tmp_path).restore(make_state())
    assert (tmp_path / 'checkpoints' / '1').is_dir()


def test_readers_leave_a_damaged_step_where_it_is(tmp_path, capsys):
    save(tmp_path, make_state(step=1), make_state(value=2.0, step=2))
    flip_byte(tmp_path / 'checkpoints' / '2')
    restored = Checkpoints(tmp_path, read_only=True).restore(make_state())
    assert int(restored.state.step) == 1
    assert 'checkpoint 2 is damaged' in capsys.readouterr().err
    assert (tmp_path / 'checkpoints' / '2').is_dir() and not (tmp_path / 'damaged').exists()
    assert Checkpoints(tmp_path / 'absent', read_only=True).restore(make_state()) is None
    assert not (tmp_path / 'absent').exists()


def test_readers_need_no_moments(tmp_path):
    save(tmp_path, make_state(step=1), make_state(value=2.0, step=2))
    target = make_state().replace(opt_state=None)
    restored = Checkpoints(tmp_path, read_only=True).restore(target).state
    assert restored.opt_state is None
    assert fingerprints.compute(restored.params) == fingerprints.compute(
        make_state(value=2.0).params
    )
    flip_byte(tmp_path / 'checkpoints' / '2')
    assert int(Checkpoints(tmp_path, read_only=True).restore(target).state.step) == 1


def tensorstore_error(message):
    """Returns an error as orbax raises it for an array that it cannot read."""
    error = Exception('Encountered error while reading array index')
    error.__cause__ = ValueError(message)
    return error


@pytest.mark.parametrize(
    'error',
    [
        jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'),
        MemoryError(),
        OSError(116, 'Stale file handle'),
        tensorstore_error(
            "INTERNAL: Error reading local file: Input/output error [os_error_code='5']"
        ),
    ],
)
def test_an_error_of_the_machine_is_not_damage(error, tmp_path, monkeypatch):
    save(tmp_path, make_state(step=1))

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, 'restore', fails)
    with pytest.raises(type(error)):
        Checkpoints(tmp_path).restore(make_state())
    assert (tmp_path / 'checkpoints' / '1').is_dir() and not (tmp_path / 'damaged').exists()


@pytest.mark.parametrize('step', [None, 2])
def test_a_step_is_pruned_while_it_is_read(step, tmp_path, monkeypatch):
    save(tmp_path, make_state(step=1), make_state(value=2.0, step=2))
    newest, restore = tmp_path / 'checkpoints' / '2', ocp.CheckpointManager.restore

    def pruned(self, number, **items):
        # A run that saved newer steps prunes this one.
        if number == 2 and newest.exists():
            newest.rename(tmp_path / 'gone')
            shutil.copytree(tmp_path / 'gone', tmp_path / 'checkpoints' / '3')
        return restore(self, number, **items)

    monkeypatch.setattr(ocp.CheckpointManager, 'restore', pruned)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    if step:
        with pytest.raises(UserError, match='no checkpoint of step 2; available steps: 1, 3'):
            checkpoints.restore(make_state(), step)
    else:
        restored = checkpoints.restore(make_state()).state
        expected = fingerprints.compute(make_state(value=2.0).params)
        assert fingerprints.compute(restored.params) == expected


def test_all_processes_restore_a_step_that_all_of_them_see(tmp_path, monkeypatch):
    """Tests a network file system that shows a host an old list of names."""
    save(tmp_path, make_state(step=1))
    seen = []

    def all_same(steps):
        seen.append(steps)
        if len(seen) == 1:
            shutil.copytree(tmp_path / 'checkpoints' / '1', tmp_path / 'checkpoints' / '2')
        return len(seen) == 2

    monkeypatch.setattr(checkpoint.processes, 'all_same', all_same)
    monkeypatch.setattr(checkpoint.time, 'sleep', lambda _: None)
    assert Checkpoints(tmp_path).steps == [1, 2]
    assert seen == [[1], [1, 2]]
    with pytest.raises(UserError, match=r'process 0 sees \[1, 2\], others see others'):
        Checkpoints(tmp_path)


def test_missing_and_damaged_checkpoints_are_reported(tmp_path):
    assert Checkpoints(tmp_path).restore(make_state()) is None
    save(tmp_path, make_state(step=1))
    with pytest.raises(UserError, match=r'no checkpoint of step 7.*available steps: 1'):
        Checkpoints(tmp_path).restore(make_state(), step=7)
    flip_byte(tmp_path / 'checkpoints' / '1')
    with pytest.raises(UserError, match='step 1 is damaged'):
        Checkpoints(tmp_path).restore(make_state(), step=1)
    with pytest.raises(UserError, match='every checkpoint is damaged'):
        Checkpoints(tmp_path).restore(make_state())


def test_frozen_parameters_are_tied_by_fingerprint_not_copied(tmp_path):
    save(tmp_path, make_state(('behavior/.*',), step=1))
    size = sum(p.stat().st_size for p in tmp_path.rglob('*') if p.is_file())
    assert size < 128 * 16 * 4 * 3
    assert int(Checkpoints(tmp_path).restore(make_state(('behavior/.*',))).state.step) == 1
    with pytest.raises(UserError, match='not the one this run was trained on.*embed/table'):
        Checkpoints(tmp_path).restore(make_state(('behavior/.*',), value=1.0001))


def test_a_save_does_not_ask_for_preemption(tmp_path, monkeypatch):
    """Tests that orbax does not ask by its own step numbers, which are not the loop's.

    jax would delay the answer to the largest number that it was asked about.
    """
    asked = []
    monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', asked.append)
    save(tmp_path, make_state(step=1), make_state(step=2))
    assert Checkpoints(tmp_path).steps == [1, 2] and not asked

"""Checkpoints: asynchronous orbax steps with fingerprints, restored onto any mesh.

A step holds the items `state` (step, trainable parameters, moments), `data` (the step and hashes of
plan and examples), `clock` (training seconds and tokens so far), `config` and `fingerprints` of all
of them.
Frozen parameters are not copied: their fingerprints tie the step to the base checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
import time
from typing import Any, NoReturn

import jax
import orbax.checkpoint as ocp

from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.pytrees import flatten
from bsft_jax.training import damage, fingerprints, orbax_noise, run_record
from bsft_jax.training.state import TrainState

# Timeout of writing a step. Orbax's 1,200 are too few for 100 GB on slow storage.
SAVE_TIMEOUT_SECONDS = 7200
# How long writes may go on after one of them has failed.
REMOVE_TIMEOUT_SECONDS = 10
# One a second, until all hosts list the same steps: network file systems cache directories.
STEP_LIST_RETRIES = 60
_JSON_ITEMS = ('data', 'clock', 'config', 'fingerprints')
# Orbax's name of a step that is not complete, after the step's own.
_UNFINISHED = '.orbax-checkpoint-tmp'


@dataclasses.dataclass
class Restored:
    """Holds a restored step: the state, and the `data` and `clock` items saved with it."""

    state: TrainState
    data: dict[str, Any]
    clock: dict[str, float]


def _saved_items(state: TrainState) -> dict[str, Any]:
    parts = {'step': state.step, 'trainable': state.trainable, 'opt_state': state.opt_state}
    return {name: part for name, part in parts.items() if part is not None}


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {path: list(x.shape) for path, x in flatten(tree).items()}


class _Manager(ocp.CheckpointManager):
    """Leaves preemption to the training loop.

    The loop asks jax by the number of steps since its start. A question by another count would
    delay the answer.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """Saves and restores the checkpoints of one workdir; every process makes one.

    Args:
      workdir: steps are in `workdir/checkpoints/STEP`, damaged ones in `workdir/damaged/`.
      keep: how many of the newest steps stay.
      read_only: leaves damaged steps where they are; for everybody but the run itself.

    Raises UserError where processes see different steps.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int = 1, *, read_only: bool = False):
        orbax_noise.silence()
        self._read_only = read_only
        self._workdir = pathlib.Path(workdir).resolve()
        self._directory = self._workdir / 'checkpoints'
        # Read before the steps are listed: the run may save another one in between.
        first = processes.is_first()
        self._last_saved = run_record.saved_step(self._workdir) if first else None
        self._saving: int | None = None
        self._closed = False
        if self._directory.exists() and not self._directory.is_dir():
            raise UserError('is not a folder', where=str(self._directory))
        self._manager = _Manager(
            self._directory,
            item_names=('state', *_JSON_ITEMS),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                async_options=ocp.AsyncOptions(timeout_secs=SAVE_TIMEOUT_SECONDS),
            ),
        )
        self._frozen_fingerprints: dict[str, int] | None = None
        self._await_same_steps()

    @property
    def steps(self) -> list[int]:
        """Returns the steps on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, *, data: dict, clock: dict, config: dict) -> None:
        """Starts saving; returns once the arrays are copied, and writes in the background.

        Raises UserError for weights that are not finite, and as `wait` does.
        """
        self.wait()
        step = int(state.step)
        if step in self.steps:
            return
        if broken := fingerprints.not_finite(state.trainable):
            raise UserError(
                f'after step {step} {broken[0]} is not finite; it is not saved, earlier '
                'checkpoints are',
                fix='lower --config.optimizer.learning_rate (a new --workdir)',
            )
        if self._frozen_fingerprints is None:
            self._frozen_fingerprints = fingerprints.compute(state.frozen)
        saved, items = _saved_items(state), {'data': data, 'clock': clock, 'config': config}
        items['fingerprints'] = {
            'kind': fingerprints.KIND,
            'shapes': _shapes(saved),
            'saved': fingerprints.compute(saved),
            'frozen': self._frozen_fingerprints,
            'json': {name: fingerprints.of_json(item) for name, item in items.items()},
        }
        self._saving = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(saved),
                    **{name: ocp.args.JsonSave(item) for name, item in items.items()},
                ),
            )
        except Exception as error:
            self._give_up(step, error)

    def check(self) -> None:
        """Raises UserError if the save in the background has failed; does not wait for it."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Blocks until the last save is on disk; raises UserError where it could not be written."""
        if self._saving is None:
            return
        step = self._saving
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._give_up(step, error)
        self._saving = None
        if processes.is_first():
            run_record.set_saved_step(self._workdir, step)

    def close(self) -> None:
        """Waits for the last save and releases orbax's threads; raises UserError as `wait` does."""
        self.wait()
        if not self._closed:
            self._closed = True
            self._manager.close()

    def _give_up(self, step: int, error: Exception) -> NoReturn:
        """Stops saving for good and removes what a failed save left, which may fill the disk."""
        self._saving, self._closed = None, True
        code = damage.system_code(error)
        if code is None:
            raise error
        orbax_noise.release(error)
        # Its threads have to end before Python does.
        with contextlib.suppress(Exception):
            self._manager.close()
        if processes.is_first():
            self._remove_unfinished(step)
        saved = [number for number in self._manager.all_steps(read=True) if number != step]
        kept = f'step {max(saved)} is saved' if saved else 'no step is saved'
        raise UserError(
            f'step {step} could not be saved ({os.strerror(code)}); {kept}',
            where=str(self._directory),
            fix='make room and start again',
        ) from error

    def _remove_unfinished(self, step: int) -> None:
        """Removes what was written of a step, also by writes that go on for a moment."""
        clean, deadline = 0, time.monotonic() + REMOVE_TIMEOUT_SECONDS
        while clean < 2 and time.monotonic() < deadline:
            left = list(self._directory.glob(f'{step}{_UNFINISHED}*'))
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
            clean = 0 if left else clean + 1
            time.sleep(0.1)

    def restore(self, state: TrainState, step: int | None = None) -> Restored | None:
        """Restores the newest intact step onto the mesh of `state`, or exactly `step`.

        Only the frozen parameters of `state` must be arrays; shapes, dtypes and shardings suffice
        for the rest. Without `opt_state` (None) no moments are read. A damaged step is passed over
        for the one before it, reported with the step that is used instead, and moved to `damaged/`
        unless this is read only. Returns None when there is no checkpoint.

        Raises:
          UserError: `step` does not exist or is damaged; the base is not the one trained on;
            another version of this package wrote the step; its weights are not finite; every
            checkpoint is damaged, and then all stay where they are.
          OSError: a step cannot be read.
        """
        if step is not None:
            return self._restore_exactly(state, step)
        damaged: dict[int, str] = {}
        while untried := [step for step in self.steps if step not in damaged]:
            step = untried[-1]
            restored, problem = self._try_restore(state, step)
            if restored is not None:
                self._report(damaged, step)
                return restored
            damaged[step] = problem
            self._manager.reload()
            self._await_same_steps()
        if damaged:
            raise UserError(
                f'every checkpoint is damaged (step {max(damaged)}: {damaged[max(damaged)]})',
                where=str(self._directory),
                fix='start again with a new --workdir; the damaged steps are kept',
            )
        return None

    def _await_same_steps(self) -> None:
        """Waits until all processes list the same steps, so that they restore the same one."""
        for _ in range(STEP_LIST_RETRIES):
            if processes.all_same(self.steps):
                return
            time.sleep(1)
            self._manager.reload()
        raise UserError(
            f'process {jax.process_index()} sees {self.steps or "no steps"}, others see others',
            where=str(self._directory),
            fix='every host has to see the same folder',
        )

    def _restore_exactly(self, state: TrainState, step: int) -> Restored:
        if step in self.steps:
            restored, problem = self._try_restore(state, step)
            if restored is not None:
                return restored
            self._manager.reload()
            if step in self.steps:
                raise UserError(f'step {step} is damaged ({problem})', where=str(self._directory))
        available = ', '.join(map(str, self.steps)) or 'none'
        raise UserError(
            f'no checkpoint of step {step}',
            where=str(self._directory),
            fix=f'available steps: {available}',
        )

    def _try_restore(self, state: TrainState, step: int) -> tuple[Restored | None, str]:
        """Restores a step; returns None and the problem where it is damaged.

        Raises UserError for an intact step that does not belong to this state.
        """
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            _saved_items(state),
        )
        problem = ''
        try:
            items = self._read_json_items(step)
            marks = items['fingerprints']
            self._check_fits(marks, shapes, step)
            expected = {
                path: mark for path, mark in marks['saved'].items() if path.split('/')[0] in shapes
            }
            arrays = self._read_arrays(step, shapes)
            problem = damage.changed_item(items, int(arrays['step']))
        except Exception as error:
            # On damage orbax raises whatever its storage layer raises.
            if not damage.is_damage(error):
                if code := damage.system_code(error):
                    folder = str(self._directory / str(step))
                    raise OSError(code, os.strerror(code), folder) from error
                raise
            problem = f'{type(error).__name__}: {error}'.split('\n')[0][:200]
        if not processes.all_true(not problem):
            return None, problem or 'another process cannot read its part'
        damaged = fingerprints.changed(expected, fingerprints.compute(arrays))
        if damaged:
            return None, f'{len(damaged)} arrays are not as they were saved, first {damaged[0]}'
        different = fingerprints.changed(marks['frozen'], fingerprints.compute(state.frozen))
        if different:
            raise UserError(
                'the base is not the one this run was trained on '
                f'({len(different)} arrays differ, first {different[0]})',
                where='--config.model.base',
            )
        if broken := fingerprints.not_finite(arrays['trainable']):
            raise UserError(
                f'step {step} has weights that are not finite, first {broken[0]}',
                where=str(self._directory),
                fix='name an earlier --step, or train anew with a lower learning rate',
            )
        return Restored(state.replace(**arrays), dict(items['data']), dict(items['clock'])), ''

    def _read_json_items(self, step: int) -> dict[str, Any]:
        restore = {name: ocp.args.JsonRestore() for name in _JSON_ITEMS}
        return self._manager.restore(step, args=ocp.args.Composite(**restore))

    def _read_arrays(self, step: int, shapes: Any) -> dict[str, Any]:
        restore = ocp.args.PyTreeRestore(
            shapes,
            restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
            partial_restore=True,
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=restore))['state']

    def _check_fits(self, marks: dict, shapes: Any, step: int) -> None:
        """Raises UserError for an intact step of another state, or of another version."""
        where = str(self._directory / str(step))
        if marks.get('kind') != fingerprints.KIND:
            raise UserError(
                'this step is from another version of bsft_jax',
                where=where,
                fix='go on with that version',
            )
        for path, shape in _shapes(shapes).items():
            if (saved_shape := marks['shapes'].get(path)) != shape:
                raise UserError(
                    'the base is not the one this run was trained on '
                    f'({path} is {saved_shape} in {where}, {shape} here)',
                    where='--config.model.base',
                )

    def _report(self, damaged: dict[int, str], used: int) -> None:
        """Says which step is used instead of newer ones, and moves those that are damaged."""
        gone = self._last_saved is not None and self._last_saved > max((used, *damaged))
        if gone:
            print(f'checkpoint {self._last_saved} is gone; step {used} is used', file=sys.stderr)
        if not damaged:
            return
        processes.barrier('steps are damaged')
        for step, problem in damaged.items():
            source = self._directory / str(step)
            # The run that writes here may have pruned it.
            if not (processes.is_first() and source.exists()):
                continue
            outcome = 'left where it is'
            if not self._read_only:
                outcome = f'moved to {self._set_aside(source)}'
            print(
                f'checkpoint {step} is damaged ({problem}): {outcome}; step {used} is used',
                file=sys.stderr,
            )
        processes.barrier('steps are set aside')
        self._manager.reload()
        self._await_same_steps()

    def _set_aside(self, source: pathlib.Path) -> pathlib.Path:
        """Moves a damaged step to `damaged/`, under a name that is free there."""
        target = self._workdir / 'damaged' / source.name
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f'{source.name}-{number}')
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
        return target

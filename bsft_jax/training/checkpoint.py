"""Checkpoints: asynchronous orbax steps with fingerprints, restored onto any mesh.

A step holds the items `state` (step, trainable parameters, moments), `data` (the step and hashes of
plan and examples), `clock` (training seconds and tokens so far), `config` and `fingerprints`.
Frozen parameters are not copied: their fingerprints tie the step to the base checkpoint.
"""

from __future__ import annotations

import dataclasses
import errno
import pathlib
import re
import sys
import time
from typing import Any

import jax
import orbax.checkpoint as ocp

from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.pytrees import flatten
from bsft_jax.training import fingerprints
from bsft_jax.training.state import TrainState

# Timeout of writing a step. Orbax's 1,200 are too few for 100 GB on slow storage.
SAVE_TIMEOUT_SECONDS = 7200
# One a second, until all hosts list the same steps: network file systems cache directories.
STEP_LIST_RETRIES = 60
_JSON_ITEMS = ('data', 'clock', 'config', 'fingerprints')


@dataclasses.dataclass
class Restored:
    """Holds a restored step: the state, and the `data` and `clock` items saved with it."""

    state: TrainState
    data: dict[str, Any]
    clock: dict[str, float]


def _saved_items(state: TrainState) -> dict[str, Any]:
    parts = {'step': state.step, 'trainable': state.trainable, 'opt_state': state.opt_state}
    return {name: part for name, part in parts.items() if part is not None}


def _is_damage(error: BaseException) -> bool:
    """Returns whether a restore failed because of the files, not of device, host or storage."""
    while error.__cause__ is not None:
        error = error.__cause__
    # tensorstore raises ValueError for every error of the operating system.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if isinstance(error, FileNotFoundError) or (code and int(code[1]) == errno.ENOENT):
        return True
    return not (
        code or isinstance(error, (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError))
    )


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
        self._read_only = read_only
        self._workdir = pathlib.Path(workdir).resolve()
        self._directory = self._workdir / 'checkpoints'
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
        """Starts saving; returns once the arrays are copied, and writes in the background."""
        step = int(state.step)
        if step in self.steps:
            return
        if self._frozen_fingerprints is None:
            self._frozen_fingerprints = fingerprints.compute(state.frozen)
        saved = _saved_items(state)
        marks = {
            'kind': fingerprints.KIND,
            'shapes': _shapes(saved),
            'saved': fingerprints.compute(saved),
            'frozen': self._frozen_fingerprints,
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(saved),
                data=ocp.args.JsonSave(data),
                clock=ocp.args.JsonSave(clock),
                config=ocp.args.JsonSave(config),
                fingerprints=ocp.args.JsonSave(marks),
            ),
        )

    def restore(self, state: TrainState, step: int | None = None) -> Restored | None:
        """Restores the newest intact step onto the mesh of `state`, or exactly `step`.

        Only the frozen parameters of `state` must be arrays; shapes, dtypes and shardings suffice
        for the rest. Without `opt_state` (None) no moments are read. A damaged step is reported,
        moved to `damaged/` unless this is read only, and the one before it is tried. Returns None
        when there is no checkpoint.

        Raises:
          UserError: `step` does not exist or is damaged; the base is not the one trained on;
            another version of this package wrote the step; every checkpoint is damaged.
        """
        if step is not None:
            return self._restore_exactly(state, step)
        tried: set[int] = set()
        while untried := [step for step in self.steps if step not in tried]:
            restored, problem = self._try_restore(state, untried[-1])
            if restored is not None:
                return restored
            self._set_aside(untried[-1], problem)
            tried.add(untried[-1])
        if tried:
            raise UserError(
                'every checkpoint is damaged',
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
            arrays = self._read_arrays(step, shapes)
        except Exception as error:
            # On damage orbax raises whatever its storage layer raises.
            if not _is_damage(error):
                raise
            problem = f'{type(error).__name__}: {error}'.split('\n')[0][:200]
        if not processes.all_true(not problem):
            return None, problem or 'another process cannot read its part'
        expected = {
            path: mark for path, mark in marks['saved'].items() if path.split('/')[0] in shapes
        }
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

    def _set_aside(self, step: int, problem: str) -> None:
        """Reports a damaged step and moves it, unless the run that writes here has pruned it."""
        source = self._directory / str(step)
        target = self._workdir / 'damaged' / str(step)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f'{step}-{number}')
        processes.barrier(f'step {step} is damaged')
        if processes.is_first() and source.exists():
            outcome = 'left where it is'
            if not self._read_only:
                target.parent.mkdir(exist_ok=True)
                source.rename(target)
                outcome = f'moved to {target}'
            print(f'checkpoint {step} is damaged ({problem}): {outcome}', file=sys.stderr)
        processes.barrier(f'step {step} is set aside')
        self._manager.reload()
        self._await_same_steps()

    def wait(self) -> None:
        """Blocks until the last save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and releases orbax's threads."""
        self._manager.close()

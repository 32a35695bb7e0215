"""Checkpoints: asynchronous orbax steps with fingerprints, restored onto any mesh.

A step holds the items `state` (step, trainable parameters, moments), `data` (the step and hashes of plan and
examples), `clock` (training seconds and tokens so far), `config` and `fingerprints`. Frozen parameters are
not copied: their fingerprints tie the step to the base checkpoint.
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
from bsft_jax.training import fingerprints
from bsft_jax.training.state import TrainState
from bsft_jax.trees import flatten

SAVE_SECONDS = 7200  # that writing a step may take; orbax allows 1,200, too few for 100 GB on slow storage
_LOOKS = 60  # a second apart, for what process 0 sees: a network file system shows old names for a while
_JSON_ITEMS = ('data', 'clock', 'config', 'fingerprints')


@dataclasses.dataclass
class Restored:
    """A restored step: the state, and the `data` and `clock` items saved with it."""

    state: TrainState
    data: dict[str, Any]
    clock: dict[str, float]


def _saved(state: TrainState) -> dict[str, Any]:
    parts = {'step': state.step, 'trainable': state.trainable, 'opt_state': state.opt_state}
    return {name: part for name, part in parts.items() if part is not None}


def _is_damage(error: BaseException) -> bool:
    """Whether an error of a restore speaks of the files, and not of the device, host or storage that reads them."""
    while error.__cause__ is not None:
        error = error.__cause__
    code = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore raises ValueError for every one
    if isinstance(error, FileNotFoundError) or (code and int(code[1]) == errno.ENOENT):
        return True
    return not (code or isinstance(error, (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError)))


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {path: list(x.shape) for path, x in flatten(tree).items()}


class _Manager(ocp.CheckpointManager):
    """Does not ask jax whether the run was told to stop.

    The loop does, by steps since its start; a question by another count in between would put off the answer.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: steps lie in `workdir/checkpoints/STEP`, damaged ones in `workdir/damaged/`.
      keep: how many of the newest steps stay.
      read_only: damaged steps stay where they are; for everybody but the run itself.

    Every process makes one. Raises UserError where processes see different steps.
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
                async_options=ocp.AsyncOptions(timeout_secs=SAVE_SECONDS),
            ),
        )
        self._frozen: dict[str, int] | None = None
        self._see_the_same()

    @property
    def steps(self) -> list[int]:
        """Steps on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, *, data: dict, clock: dict, config: dict) -> None:
        """Starts saving; returns when the arrays are copied and writing goes on in the background."""
        step = int(state.step)
        if step in self.steps:
            return
        if self._frozen is None:
            self._frozen = fingerprints.compute(state.frozen)
        saved = _saved(state)
        marks = {
            'kind': fingerprints.KIND,
            'shapes': _shapes(saved),
            'saved': fingerprints.compute(saved),
            'frozen': self._frozen,
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
        """Restores the newest whole step onto the mesh of `state`, or exactly `step`.

        Of `state` only the frozen parameters must be arrays: of the rest shapes, dtypes and shardings count.
        Without its `opt_state` (None) no moments are read. A damaged step is reported, moved to `damaged/`
        unless this is read only, and the one before it is tried. Returns None when there is no checkpoint.

        Raises:
          UserError: `step` does not exist or is damaged; the base is not the one trained on; another version
            of this package wrote the step; every checkpoint is damaged.
        """
        if step is not None:
            return self._restore_exactly(state, step)
        tried: set[int] = set()
        while left := [step for step in self.steps if step not in tried]:
            restored, problem = self._try(state, left[-1])
            if restored is not None:
                return restored
            self._set_aside(left[-1], problem)
            tried.add(left[-1])
        if tried:
            raise UserError(
                'every checkpoint is damaged',
                where=str(self._directory),
                fix='start again with a new --workdir; the damaged steps are kept',
            )
        return None

    def _see_the_same(self) -> None:
        """Waits until all processes list the same steps: each for itself, some would restore others than the rest."""
        for _ in range(_LOOKS):
            if processes.all_equal(self.steps):
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
            restored, problem = self._try(state, step)
            if restored is not None:
                return restored
            self._manager.reload()
            if step in self.steps:
                raise UserError(f'step {step} is damaged ({problem})', where=str(self._directory))
        found = ', '.join(map(str, self.steps)) or 'none'
        raise UserError(
            f'no checkpoint of step {step}', where=str(self._directory), fix=f'steps there: {found}'
        )

    def _try(self, state: TrainState, step: int) -> tuple[Restored | None, str]:
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _saved(state)
        )
        problem = ''
        try:
            jsons = ocp.args.Composite(**{name: ocp.args.JsonRestore() for name in _JSON_ITEMS})
            items = self._manager.restore(step, args=jsons)
            marks = items['fingerprints']
            self._check_fits(marks, shapes, step)
            saved = {path: mark for path, mark in marks['saved'].items() if path.split('/')[0] in shapes}
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        shapes,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
                        partial_restore=True,
                    )
                ),
            )['state']
        except Exception as error:  # orbax raises whatever its storage layer raises on damage
            if not _is_damage(error):
                raise
            problem = f'{type(error).__name__}: {error}'.split('\n')[0][:200]
        if not processes.all_agree(not problem):
            return None, problem or 'another process cannot read its part'
        bad = fingerprints.changed(saved, fingerprints.compute(found))
        if bad:
            return None, f'{len(bad)} arrays are not as they were saved, first {bad[0]}'
        wrong = fingerprints.changed(marks['frozen'], fingerprints.compute(state.frozen))
        if wrong:
            raise UserError(
                f'the base is not the one this run was trained on ({len(wrong)} arrays differ, first {wrong[0]})',
                where='--config.model.base',
            )
        whole = state.replace(**found)
        return Restored(whole, dict(items['data']), dict(items['clock'])), ''

    def _check_fits(self, marks: dict, shapes: Any, step: int) -> None:
        """Raises UserError for a whole step that is not one of this state, or of this version."""
        where = str(self._directory / str(step))
        if marks.get('kind') != fingerprints.KIND:
            raise UserError(
                'this step is from another version of bsft_jax', where=where, fix='go on with that version'
            )
        for path, shape in _shapes(shapes).items():
            if (there := marks['shapes'].get(path)) != shape:
                raise UserError(
                    f'the base is not the one this run was trained on ({path} is {there} in {where}, {shape} here)',
                    where='--config.model.base',
                )

    def _set_aside(self, step: int, problem: str) -> None:
        """Reports a damaged step and moves it, unless it is gone: the run that writes here may have pruned it."""
        source, target, number = self._directory / str(step), self._workdir / 'damaged' / str(step), 1
        while target.exists():
            number += 1
            target = target.with_name(f'{step}-{number}')
        processes.barrier(f'step {step} is damaged')
        if processes.is_first() and source.exists():
            done = 'left where it is'
            if not self._read_only:
                target.parent.mkdir(exist_ok=True)
                source.rename(target)
                done = f'moved to {target}'
            print(f'checkpoint {step} is damaged ({problem}): {done}', file=sys.stderr)
        processes.barrier(f'step {step} is set aside')
        self._manager.reload()
        self._see_the_same()

    def wait(self) -> None:
        """Blocks until the last save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

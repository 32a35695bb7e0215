"""Checkpoints: asynchronous orbax steps with fingerprints, restored onto any mesh.

A step holds the items `state` (step, trainable parameters, moments), `data` ({step, plan_hash}),
`clock` (training seconds and tokens so far), `config` and `fingerprints`. Frozen parameters are
not copied: their fingerprints tie the step to the base checkpoint.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.training import fingerprints
from bsft_jax.training.state import TrainState

_JSON_ITEMS = ('data', 'clock', 'config', 'fingerprints')


@dataclasses.dataclass
class Restored:
    """A restored step: the state, and the `data` and `clock` items saved with it."""

    state: TrainState
    data: dict[str, Any]
    clock: dict[str, float]


def _saved(state: TrainState) -> dict[str, Any]:
    return {'step': state.step, 'trainable': state.trainable, 'opt_state': state.opt_state}


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: steps lie in `workdir/checkpoints/STEP`, damaged ones in `workdir/damaged/`.
      keep: how many of the newest steps stay.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int = 1):
        self._workdir = pathlib.Path(workdir).resolve()
        self._directory = self._workdir / 'checkpoints'
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=('state', *_JSON_ITEMS),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )
        self._frozen: dict[str, int] | None = None

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
        marks = {'saved': fingerprints.compute(_saved(state)), 'frozen': self._frozen}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_saved(state)),
                data=ocp.args.JsonSave(data),
                clock=ocp.args.JsonSave(clock),
                config=ocp.args.JsonSave(config),
                fingerprints=ocp.args.JsonSave(marks),
            ),
        )

    def restore(self, state: TrainState, step: int | None = None) -> Restored | None:
        """Restores the newest whole step onto the mesh of `state`, or exactly `step`.

        A damaged step is reported, moved to `damaged/`, and the one before it is tried. Returns
        None when there is no checkpoint.

        Raises:
          UserError: `step` does not exist or is damaged; the frozen base is not the one trained on;
            every checkpoint is damaged.
        """
        if step is not None:
            if step not in self.steps:
                found = ', '.join(map(str, self.steps)) or 'none'
                raise UserError(
                    f'no checkpoint of step {step}', where=str(self._directory), fix=f'steps there: {found}'
                )
            restored, problem = self._try(state, step)
            if restored is None:
                raise UserError(f'step {step} is damaged ({problem})', where=str(self._directory))
            return restored
        had_steps = bool(self.steps)
        while self.steps:
            newest = self.steps[-1]
            restored, problem = self._try(state, newest)
            if restored is not None:
                return restored
            self._set_aside(newest, problem)
        if had_steps:
            raise UserError(
                'every checkpoint is damaged',
                where=str(self._directory),
                fix='start again with a new --workdir; the damaged steps are kept beside it',
            )
        return None

    def _try(self, state: TrainState, step: int) -> tuple[Restored | None, str]:
        target = _saved(state)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), target)
        problem = ''
        try:
            items = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract),
                    **{name: ocp.args.JsonRestore() for name in _JSON_ITEMS},
                ),
            )
            marks = items['fingerprints']
        except Exception as error:  # orbax raises whatever its storage layer raises on damage
            problem = f'{type(error).__name__}: {error}'.split('\n')[0][:200]
        if not processes.all_agree(not problem):
            return None, problem or 'another process cannot read its part'
        bad = fingerprints.changed(marks['saved'], fingerprints.compute(items['state']))
        if bad:
            return None, f'{len(bad)} arrays are not as they were saved, first {bad[0]}'
        wrong = fingerprints.changed(marks['frozen'], fingerprints.compute(state.frozen))
        if wrong:
            raise UserError(
                f'the base is not the one this run was trained on ({len(wrong)} arrays differ, first {wrong[0]})',
                where='--config.model.base',
            )
        whole = state.replace(**items['state'])
        return Restored(whole, dict(items['data']), dict(items['clock'])), ''

    def _set_aside(self, step: int, problem: str) -> None:
        target = self._workdir / 'damaged' / str(step)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f'{step}-{number}')
        processes.barrier(f'step {step} is damaged')
        if processes.is_first():
            target.parent.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(target)
            print(f'checkpoint {step} is damaged ({problem}): moved to {target}', file=sys.stderr)
        processes.barrier(f'step {step} is set aside')
        self._manager.reload()

    def wait(self) -> None:
        """Blocks until the last save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

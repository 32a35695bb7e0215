"""Runs the commands of a study as Slurm jobs, through `launch/slurm.sbatch`."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from bsft_jax import files
from bsft_jax.errors import EXIT_TERMINATED, UserError
from bsft_jax.studies import resources
from bsft_jax.studies.launchers import LocalLauncher

SCRIPT = 'launch/slurm.sbatch'
# Of a job that will not run any further; Slurm itself puts preempted ones back into the queue.
_ENDED = {
    *('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL', 'OUT_OF_MEMORY'),
    *('BOOT_FAIL', 'DEADLINE', 'PREEMPTED', 'REVOKED'),
}
_UNKNOWN = 'UNKNOWN'
_FAILED_CODE = 1


class SlurmLauncher(LocalLauncher):
    """Submits each command as a job and waits for it; jobs of different runs wait side by side.

    A job that is preempted or out of time saves, goes back to the queue and resumes. One that fails
    is submitted once more. The number of a job is kept beside its log until it has ended, so that a
    study that was stopped and is started again waits for its jobs instead of submitting them twice.

    Args:
      directory: folder of the study, on storage that every node sees.
      jobs: number of jobs at a time in the queue.
      options: options of `sbatch`.
      poll_seconds: between two looks at a job.

    Raises:
      UserError: there is no `sbatch`, or the working directory is not the repository.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        jobs: int = 1,
        options: Sequence[str] = (),
        poll_seconds: float = 5.0,
    ):
        super().__init__(directory)
        if shutil.which('sbatch') is None:
            raise UserError(
                'there is no sbatch',
                where='--launcher=slurm',
                fix='call it where jobs are submitted',
            )
        if not os.path.isfile(SCRIPT):
            raise UserError(
                f'there is no {SCRIPT} here',
                where='--launcher=slurm',
                fix='call it in the repository',
            )
        self._shares = [resources.Resources()] * jobs
        self._options, self._poll_seconds = tuple(options), poll_seconds

    def _run(self, command: Sequence[str], log) -> int:
        kept = pathlib.Path(log.name).with_suffix('.job')
        job = kept.read_text().strip() if kept.is_file() else ''
        if not job or _state(job)[0] == _UNKNOWN:
            job = self._submit(command, log.name)
            files.write_text(kept, job)
        while (ended := _state(job))[0] not in (*_ENDED, _UNKNOWN):
            if self._stopping.wait(self._poll_seconds):
                return EXIT_TERMINATED
        kept.unlink()
        return ended[1]

    def _submit(self, command: Sequence[str], log: str) -> str:
        """Returns the number of a new job; raises UserError where Slurm refuses it."""
        submit = ['sbatch', '--parsable', '--open-mode=append', f'--output={log}', *self._options]
        done = subprocess.run(
            [*submit, SCRIPT, '--', *command[1:]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(done.stderr.strip() or 'no reason', where='sbatch', fix='see --sbatch')
        # The name of the cluster may follow the number.
        return done.stdout.strip().partition(';')[0]


def _state(job: str) -> tuple[str, int]:
    """Returns the state of a job and its exit code.

    The state is `UNKNOWN` where Slurm has forgotten the job, which it does minutes after its end.
    """
    done = subprocess.run(
        ['scontrol', '--oneliner', 'show', 'job', job], capture_output=True, text=True, check=False
    )
    if done.returncode:
        # A controller that does not answer is no end of a job.
        forgotten = 'Invalid job id' in done.stderr
        return (_UNKNOWN if forgotten else 'UNREACHABLE'), _FAILED_CODE
    values = dict(part.split('=', 1) for part in done.stdout.split() if '=' in part)
    state, (code, _, _) = values['JobState'], values.get('ExitCode', '').partition(':')
    if state == 'COMPLETED':
        return state, 0
    return state, int(code) if code.isdigit() and int(code) else _FAILED_CODE

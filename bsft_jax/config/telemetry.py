"""Settings of what a run writes or sends about itself: the profiler's trace and trackers."""

from __future__ import annotations

import dataclasses

from bsft_jax.config.types import free

TRACKERS = ('wandb', 'trackio')


@dataclasses.dataclass
class ProfileConfig:
    """Describes the profiler's trace, which goes to `WORKDIR/profile`.

    Attributes:
      trace_steps: `FIRST:END` traces steps FIRST to END - 1; empty for no trace.
    """

    trace_steps: str = free('')


@dataclasses.dataclass
class TrackingConfig:
    """Describes where metrics are sent besides the files of the workdir; by default nowhere.

    Attributes:
      report_to: trackers, separated by commas, of TRACKERS; `none` for none.
      project: project there; empty for `WANDB_PROJECT` or `TRACKIO_PROJECT`, else `bsft_jax`.
      run_name: name of the run there; empty for that of the workdir.
    """

    report_to: str = free('none')
    project: str = free('')
    run_name: str = free('')

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the trackers, each once."""
        names = dict.fromkeys(name.strip() for name in self.report_to.split(','))
        return tuple(name for name in names if name != 'none')

"""Keeps orbax from telling in hundreds of lines what the checkpoints tell in one.

A failed read or write is logged by each of orbax's threads, printed by callbacks that find their
event loop closed, and by coroutines that are freed later. `Checkpoints` raises the error itself.
"""

from __future__ import annotations

import functools
import gc
import logging
import sys
import traceback
from typing import Any

from absl import logging as absl_logging


@functools.cache
def silence() -> None:
    """Drops what orbax reports of failures from now on, unless the log is verbose (`-v=0`)."""
    absl_logging.get_absl_logger().addFilter(_is_wanted)
    # Reports tasks whose failure nobody asked for, as several fail at once.
    logging.getLogger('asyncio').addFilter(_is_wanted)
    sys.unraisablehook = _without_leftovers(sys.unraisablehook)


def _is_wanted(record: logging.LogRecord) -> bool:
    raised_in = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
    # A future of tensorstore has neither a file nor frames, only the path that it wrote to.
    sources = [record.getMessage(), record.pathname, *(frame.filename for frame in raised_in)]
    is_orbax = any('/orbax/' in text or '.orbax-checkpoint' in text for text in sources)
    return not is_orbax or absl_logging.get_verbosity() >= absl_logging.INFO


def _without_leftovers(hook: Any) -> Any:
    """Returns a hook for errors that nobody can catch, which knows those that follow a failure."""

    def unraisablehook(unraisable: Any) -> None:
        code = getattr(unraisable.object, 'cr_code', None)
        in_orbax = code is not None and 'orbax' in code.co_filename
        # Raised in callbacks of tensorstore.
        if not in_orbax and str(unraisable.exc_value) != 'Event loop is closed':
            hook(unraisable)

    return unraisablehook


def release(error: BaseException) -> None:
    """Frees the coroutines of a failed save while Python can still run them."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    gc.collect()

"""Ctrl-C and SIGTERM: they end a command within seconds, whatever it is doing.

Commands install this before they import anything else. Until `unwind_from_now_on` a signal ends the
process at once, since nothing has been written yet; so it does later while a module is imported,
as an exception can crash the extension that is being initialized. Otherwise the first signal raises
KeyboardInterrupt in the main thread, so that what is half-written is removed. The exception may be
lost: JAX's callback of the garbage collector swallows it, and C++ code that compiles does not see
it. So a thread, which hears of every signal at once, ends the process after GRACE_SECONDS, and
after a second signal.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from bsft_jax.errors import EXIT_INTERRUPTED, EXIT_RESTART, EXIT_TERMINATED

# From the first signal to the end of the process, if the main thread does not end it before.
GRACE_SECONDS = 3.0
# A signal that comes so soon after the first is the same: `timeout` and shells send it twice.
_BOUNCE_SECONDS = 0.3
# Between an exception that was swallowed and the next attempt.
_RETRY_SECONDS = 0.01
# For the line that ends a command; its terminal may be stopped.
_LINE_SECONDS = 1.0
_ENDING = _thread.allocate_lock()
# Name of the variable that holds the process with which a command must end.
PARENT = 'BSFT_PARENT'
_PR_SET_PDEATHSIG = 1


class _State:
    """Holds what both threads know.

    Attributes:
      installed: whether the handlers are.
      restart: whether SIGTERM asks for another start.
      unwinds: whether the first signal raises an exception.
      number: the first signal; 0 without one.
      raised: whether it has been raised in the main thread.
    """

    installed = restart = unwinds = raised = False
    number = 0


def install(*, restart: bool = False) -> None:
    """Handles SIGINT and SIGTERM from now on; a second call changes nothing.

    A signal that the parent process ignores stays ignored.

    Args:
      restart: whether SIGTERM means that the command is started again later: it then exits with
        EXIT_RESTART, otherwise with EXIT_TERMINATED.
    """
    if _State.installed:
        return
    _State.installed, _State.restart = True, restart
    numbers = [signal.SIGINT, signal.SIGTERM]
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    _thread.start_new_thread(_watch, (read_end,))
    sys.unraisablehook = _raise_again
    # Registered first, so that it runs last.
    atexit.register(_ignore_from_now_on)
    os.register_at_fork(after_in_child=_forget)
    _end_with_parent()


def unwind_from_now_on() -> None:
    """Lets the first signal raise KeyboardInterrupt instead of ending the process at once."""
    _State.unwinds = True


def unwind_no_more() -> None:
    """Lets a signal end the process at once again, since nothing is left to be cleaned up."""
    _State.unwinds = False


def received() -> bool:
    """Returns whether a signal has come that ends the command."""
    return bool(_State.number)


def end() -> NoReturn:
    """Ends the process with one line and the exit code of the signal that came."""
    code, line = EXIT_INTERRUPTED, 'interrupted'
    if _State.number == signal.SIGTERM:
        code, line = EXIT_TERMINATED, 'terminated'
        if _State.restart:
            code, line = EXIT_RESTART, 'stopped: by a signal; start again to continue'
    # Both threads may come here. The second one waits for the line of the first.
    if _ENDING.acquire(timeout=_LINE_SECONDS):
        with contextlib.suppress(OSError):
            os.write(2, f'{line}\n'.encode())
    os._exit(code)


def _raise(number: int, frame: FrameType | None) -> None:
    """Handles a signal in the main thread."""
    _State.number = _State.number or number
    if not _State.unwinds or _imports(frame):
        end()
    # The thread takes care of further signals: an exception would interrupt the cleaning up.
    if not _State.raised:
        _State.raised = True
        raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Returns whether a module is being imported where the main thread was interrupted."""
    while frame and not frame.f_code.co_filename.startswith('<frozen importlib'):
        frame = frame.f_back
    return frame is not None


def _watch(pipe: int) -> None:
    """Reads the number of every signal as it comes, and ends the process when it is time."""
    first = 0.0
    while numbers := os.read(pipe, 1):
        # Preemption and studies have handlers of their own.
        if signal.getsignal(numbers[0]) is not _raise:
            continue
        _State.number = _State.number or numbers[0]
        now = time.monotonic()
        if not _State.unwinds or (first and now - first > _BOUNCE_SECONDS):
            end()
        if not first:
            first = now
            _thread.start_new_thread(_end_later, ())


def _end_later() -> None:
    time.sleep(GRACE_SECONDS)
    end()


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Raises the exception of a signal once more where the interpreter had to swallow it."""
    if _State.raised and isinstance(unraisable.exc_value, KeyboardInterrupt):
        # Raised here, it would be swallowed again.
        _thread.start_new_thread(_interrupt_main, ())
    elif not _State.raised:
        sys.__unraisablehook__(unraisable)


def _interrupt_main() -> None:
    time.sleep(_RETRY_SECONDS)
    _State.raised = False
    _thread.interrupt_main(_State.number)


def _ignore_from_now_on() -> None:
    """Ignores signals in the last moments of an interpreter that has done its work.

    It takes the handlers away then, so that a signal would end it with neither a line nor a code.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_IGN)


def _forget() -> None:
    """Takes the handlers away in a forked child, which shares the pipe of its parent."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
        if signal.getsignal(signal.SIGTERM) is _raise:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is _raise:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_with_parent() -> None:
    """Asks Linux to kill this process when the one that `BSFT_PARENT` names is gone."""
    parent = os.environ.pop(PARENT, '')
    if not parent or sys.platform != 'linux':
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before.
    if str(os.getppid()) != parent:
        os._exit(EXIT_TERMINATED)

"""The exceptions that a user is meant to see, and the exit codes of the commands."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable

EXIT_USER = 2
EXIT_DOES_NOT_FIT = 3
EXIT_RESTART = 75
EXIT_INTERRUPTED = 130
# As a shell reports a command that died of SIGPIPE or SIGTERM.
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143

# C0 and C1 control characters, which a terminal obeys, but tab and line feed; and lone surrogates,
# which cannot be written.
_CONTROL = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]')
# Lost in the text of other exceptions: libraries report a full disk as they like.
_STORAGE = re.compile(
    '|'.join(re.escape(os.strerror(number)) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
)
_OUT_OF_MEMORY = re.compile('RESOURCE_EXHAUSTED|Out of memory|Unable to allocate')
_SHOW_PLACE = 'add -v=1 to see where'


def printable(text: str) -> str:
    """Returns text of a user as it may be sent to a terminal, its control characters escaped."""
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f'\\x{code:02x}' if code < 256 else f'\\u{code:04x}'


class UserError(ValueError):
    """Signals something that the user must change, in one line: what, where, and what to do.

    Commands print the line and exit with 2; the traceback appears only with `-v=1`.
    """

    def __init__(self, what: str, *, where: str = '', fix: str = ''):
        parts = [f'{where}: {what}' if where else what]
        if fix:
            parts.append(fix)
        super().__init__(printable('; '.join(parts).replace('\n', ' ')))


class Preempted(Exception):
    """Signals that the run was asked to stop, saved a checkpoint, and should be started again."""


class DoesNotFit(Exception):
    """Signals that a planned run needs more memory than a device has.

    Its one line names both sizes and what would fit.
    """


# Share of letters in common from which a name counts as a misspelling of another.
_MISSPELLING = 0.85


def misspelt(name: str, known: Iterable[str]) -> str:
    """Returns the known name that `name` misspells, also in case or punctuation; else ''.

    A known name misspells nothing, nor does a name with another first letter (`active`,
    `reactive`) or another number (`proactive2`).
    """
    # Deferred: commands import this module before they handle signals.
    import difflib

    known = list(known)
    if name in known:
        return ''
    plain = {re.sub(r'[\W_]', '', other).casefold(): other for other in known}
    spelled = re.sub(r'[\W_]', '', name).casefold()
    alike = [
        other
        for other in plain
        if other[:1] == spelled[:1] and re.findall(r'\d', other) == re.findall(r'\d', spelled)
    ]
    near = difflib.get_close_matches(spelled, alike, n=1, cutoff=_MISSPELLING)
    return plain[near[0]] if near else ''


def as_user_error(error: BaseException, memory_fix: str = '') -> UserError | None:
    """Returns an exception that its surroundings caused as one line; None for what may be a bug.

    Files that cannot be read or written, a full disk, too little memory, text that is no Unicode,
    and data that is nested too deeply.

    Args:
      error: any exception.
      memory_fix: what to do when memory is too small.
    """
    if isinstance(error, UserError):
        return error
    text = str(error).strip()
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return UserError(
            f'out of memory ({_first_line(text)})' if text else 'out of memory', fix=memory_fix
        )
    if isinstance(error, OSError):
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if _is_path(name)]
        return UserError(
            error.strerror or _first_line(text) or type(error).__name__,
            where=' → '.join(names),
            fix='' if names else _SHOW_PLACE,
        )
    if full := _STORAGE.search(text):
        return UserError(full[0], fix='make room and start again')
    if isinstance(error, UnicodeError):
        return UserError(f'text that is not valid Unicode ({text})', fix=_SHOW_PLACE)
    if isinstance(error, RecursionError):
        return UserError('data that is nested too deeply', fix=_SHOW_PLACE)
    return None


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ''


def _is_path(name: object) -> bool:
    # An open file descriptor is named by its number.
    return isinstance(name, (str, bytes, os.PathLike))

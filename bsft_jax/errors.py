"""The exceptions that a user is meant to see, and the exit codes of the commands."""

import difflib
import re
from collections.abc import Iterable

EXIT_USER = 2
EXIT_DOES_NOT_FIT = 3
EXIT_RESTART = 75
EXIT_INTERRUPTED = 130


class UserError(ValueError):
    """Signals something that the user must change, in one line: what, where, and what to do.

    Commands print the line and exit with 2; the traceback appears only with `-v=1`.
    """

    def __init__(self, what: str, *, where: str = '', fix: str = ''):
        parts = [f'{where}: {what}' if where else what]
        if fix:
            parts.append(fix)
        super().__init__('; '.join(parts).replace('\n', ' '))


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

    A known name misspells nothing.
    """
    known = list(known)
    if name in known:
        return ''
    plain = {re.sub(r'[\W_]', '', other).casefold(): other for other in known}
    spelled = re.sub(r'[\W_]', '', name).casefold()
    near = difflib.get_close_matches(spelled, plain, n=1, cutoff=_MISSPELLING)
    return plain[near[0]] if near else ''

"""The exceptions that a user is meant to see, and the exit codes of the commands."""

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

"""The one exception that a user is meant to see, and the exit codes of the apps."""

EXIT_DONE = 0
EXIT_USER = 2
EXIT_DOES_NOT_FIT = 3
EXIT_RESTART = 75


class UserError(ValueError):
    """Something that the user must change: one line that says what, where, and what to do.

    Apps print the line and exit with 2; the traceback appears only with `-v=1`.
    """

    def __init__(self, what: str, *, where: str = '', fix: str = ''):
        parts = [f'{where}: {what}' if where else what]
        if fix:
            parts.append(fix)
        super().__init__('; '.join(parts).replace('\n', ' '))


class Preempted(Exception):
    """The run was asked to stop, saved a checkpoint, and should be started again (exit 75)."""


class DoesNotFit(Exception):
    """The planned run needs more memory than a device has (exit 3): one line with both figures and what would fit."""

"""Shared parts of the commands: flags in, one call, exit code out.

Results go to stdout, everything else to stderr. Importing this module imports no jax, and flags
and config files are checked before `main` runs, so a command that imports jax inside `main` rejects
a mistyped flag at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import select
import sys
import traceback
import typing
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections import config_flags

from bsft_jax import config as config_lib
from bsft_jax import places, signals
from bsft_jax.behaviors import Behavior, validate_behaviors
from bsft_jax.errors import (
    EXIT_BROKEN_PIPE,
    EXIT_DOES_NOT_FIT,
    EXIT_INTERRUPTED,
    EXIT_RESTART,
    EXIT_USER,
    DoesNotFit,
    Preempted,
    UserError,
    as_user_error,
    printable,
)
from bsft_jax.files import cache_home
from bsft_jax.parallel import env

# Programs that compile faster than this are not cached.
MIN_CACHED_COMPILE_SECONDS = '0.1'
# absl's verbosity for errors only.
QUIET = -2
# absl's flags that print a help.
_HELP = re.compile(r'--?(\?|h|help|helpfull|helpshort|helpxml)(=.*)?')

flags.disclaim_key_flags()


def define_config(required: bool = True, help: str = '') -> flags.FlagHolder[config_lib.RunConfig]:
    """Defines the flag `--config=FILE[:ARG]` and its overrides `--config.section.field=value`.

    FILE is a Python file whose `get_config(arg='')` returns a RunConfig.
    """
    _resolve_types(config_lib.RunConfig)
    holder = config_flags.DEFINE_config_file(
        'config',
        help_string=help
        or 'FILE.py[:ARG], whose get_config(ARG) returns a RunConfig; '
        'override single fields by --config.section.field=value.',
        lock_config=True,
    )
    if required:
        flags.mark_flag_as_required('config')
    return holder


class _PlaceParser(flags.ArgumentParser):
    """Reads a path of this machine, with `~` for the home folder."""

    def __init__(self, required: bool):
        self._required = required

    def parse(self, argument: str) -> str:
        """Returns the path; raises ValueError for an address such as `gs://…`."""
        if self._required and not argument:
            raise ValueError('is empty')
        return places.parse_place(argument)


def define_place(
    name: str, default: str | None, help: str, *, required: bool = False
) -> flags.FlagHolder[str]:
    """Defines a flag that names a file or folder of this machine."""
    return flags.DEFINE(_PlaceParser(required), name, default, help, required=required)


class ModelFlags(typing.NamedTuple):
    """Holds the flags of commands that read a model."""

    workdir: flags.FlagHolder[str]
    model: flags.FlagHolder[str]
    step: flags.FlagHolder[int]
    chat_template: flags.FlagHolder[str]
    tokenizer: flags.FlagHolder[str]
    prompt: flags.FlagHolder[str]
    examples: flags.FlagHolder[str]
    policy: flags.FlagHolder[str]
    config: flags.FlagHolder[config_lib.RunConfig]

    @property
    def behaviors(self) -> tuple[Behavior, ...]:
        """Returns the behaviors of the config file; empty without one.

        Raises UserError for overrides of other fields, which nothing here would read.
        """
        if self.config.value is None:
            return ()
        for field in config_flags.get_override_values(flags.FLAGS['config']):
            raise UserError(
                'is not read here', where=f'--config.{field}', fix='--config gives behaviors alone'
            )
        behaviors = self.config.value.behaviors
        validate_behaviors(behaviors)
        return behaviors


def define_model_flags(workdir_help: str) -> ModelFlags:
    """Defines the flags that name a model, its prompt style and its policy."""
    return ModelFlags(
        workdir=define_place('workdir', '', workdir_help),
        model=flags.DEFINE_string(
            'model', '', 'Model directory, PEFT adapter, GGUF file or bundled model, not a run.'
        ),
        step=flags.DEFINE_integer('step', None, 'Checkpoint of the run; default the newest.'),
        chat_template=flags.DEFINE_string(
            'chat_template', '', 'Jinja file for a --model without a template.'
        ),
        tokenizer=define_place(
            'tokenizer', '', 'Folder whose tokenizer replaces that of a --model.'
        ),
        prompt=flags.DEFINE_string(
            'prompt',
            'plain',
            'Prompt style: plain, instructed (behaviors explained) or few_shot:K (K examples).',
        ),
        examples=flags.DEFINE_string(
            'examples',
            '',
            "Data source whose train split few_shot shows; default --data for evaluate, the run's "
            'source for generate.',
        ),
        policy=flags.DEFINE_string(
            'policy',
            'auto',
            'How the behavior is chosen: auto (by the model), none (no prefix), oracle (the '
            'label), forced:NAME, threshold:T (steps in at a probability of T), dial:B (adds B '
            'to the log-odds of stepping in) or calibrated (the dial that calibrate stored); in '
            'evaluate also mixture (the mean of the answers).',
        ),
        config=define_config(
            required=False,
            help='FILE.py[:ARG], whose behaviors the records of a --model without its own name.',
        ),
    )


def enable_compilation_cache() -> None:
    """Caches compiled programs for later commands, by default in the user's cache folder.

    `JAX_COMPILATION_CACHE_DIR` names another folder.
    """
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache_home() / 'xla'))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', MIN_CACHED_COMPILE_SECONDS)


def run(main: Callable[[Sequence[str]], None], *, words: bool = False) -> typing.NoReturn:
    """Parses the flags, calls `main`, and exits with a code of `bsft_jax.errors`.

    `main` gets the name of the program, and with `words` also what is no flag; otherwise that is
    an error.

    UserError, and whatever is wrong with a flag, a config file or this machine (full disks, too
    little memory), ends with one line on stderr and exit code 2; `-v=1` adds the traceback.
    DoesNotFit exits 3, Preempted 75, Ctrl-C 130, SIGTERM 143 or 75, and a closed pipe 141 without
    a line. Libraries log errors only unless `--verbosity` says otherwise.
    """
    signals.install()
    signals.unwind_from_now_on()
    os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
    enable_compilation_cache()
    env.set_gpu_memory_fraction()
    _open_output()
    code: object = None
    try:
        try:
            app.run(main, flags_parser=lambda args: _parse_flags(args, words))
        except SystemExit as done:
            code = done.code
        _flush_output()
        signals.unwind_no_more()
        # Its exception may have been swallowed on the way.
        if signals.received():
            signals.end()
    except BaseException as error:
        signals.unwind_no_more()
        if signals.received():
            _drop_output()
            signals.end()
        code = _report(error)
        _drop_output()
    sys.exit(code)


def _report(error: BaseException) -> int:
    """Prints the line that ends a command and returns its exit code.

    Raises `error` again unless it is known, so that a bug shows its traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        line, code = 'interrupted', EXIT_INTERRUPTED
    elif isinstance(error, DoesNotFit):
        line, code = f'does not fit: {error}', EXIT_DOES_NOT_FIT
    elif isinstance(error, Preempted):
        line, code = f'stopped: {error}' if str(error) else 'stopped', EXIT_RESTART
    elif isinstance(error, BrokenPipeError) and _reader_is_gone():
        return EXIT_BROKEN_PIPE
    elif explained := as_user_error(error, _memory_fix()):
        line, code = f'error: {explained}', EXIT_USER
        if re.search(r'\s--?(v|verbosity)[= ]\d', ' '.join(sys.argv)):
            traceback.print_exception(error)
    else:
        raise error
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr)
    return code


def _memory_fix() -> str:
    """Returns what a command may do about too little memory."""
    if 'config' in flags.FLAGS:
        return (
            'lower --config.data.global_batch_rows or raise '
            '--config.train.gradient_accumulation_steps, set --config.train.remat=full, or lower '
            '--config.evaluation.tokens_per_batch'
        )
    return 'use a device with more memory, or a smaller model'


def _open_output() -> None:
    """Makes stdout and stderr files that take any text, even where the caller has closed them."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def _flush_output() -> None:
    """Writes what stdout still holds; raises UserError or BrokenPipeError where that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(str(error.strerror), where='standard output') from error


def _drop_output() -> None:
    """Writes what stdout still holds, or drops it: the interpreter would fail at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_is_gone() -> bool:
    """Returns whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _parse_flags(args: list[str], words: bool) -> list[str]:
    flags.FLAGS['verbosity'].value = QUIET
    # Flags may follow words.
    flags.FLAGS.set_gnu_getopt(words)
    _check_encoding(args)
    path = _check_config_arguments(args) if 'config' in flags.FLAGS else ''
    try:
        rest = flags.FLAGS(args)
    except SystemExit as done:
        if not any(_HELP.fullmatch(arg) for arg in args):
            raise UserError(
                f'calls sys.exit({done.code!r}) instead of returning a RunConfig', where=path
            ) from done
        # absl exits with 1 after --help.
        sys.exit(0)
    except flags.Error as error:
        raise _flag_error(error, path) from error
    except Exception as error:
        what = f'{type(error).__name__}: {error}'
        if what == "AttributeError: module 'config_config' has no attribute 'get_config'":
            what = 'defines no get_config'
        raise UserError(what, where=path or 'flags') from error
    if len(rest) > 1 and not words:
        raise UserError(f'unexpected argument {rest[1]!r}', fix='flags are spelled --name=value')
    if path and not isinstance(flags.FLAGS['config'].value, (config_lib.RunConfig, str)):
        raise UserError('get_config() does not return a RunConfig', where=path)
    if flags.FLAGS['verbosity'].using_default_value:
        # app.run would raise it to INFO.
        flags.FLAGS.verbosity = QUIET
    return rest


def _check_config_arguments(args: Sequence[str]) -> str:
    """Returns the path of the config file named in `args`.

    Raises UserError for mistakes that config_flags reports badly.
    """
    values = [a.split('=', 1)[1] for a in args[1:] if re.match(r'--?config=', a)]
    values += [b for a, b in itertools.pairwise(args) if a in ('--config', '-config')]
    fields = [m[1] for a in args[1:] if (m := re.match(r'--?(?:no)?config\.([^=]*)', a))]
    known = list(config_lib.flatten(config_lib.RunConfig().to_dict()))
    for field in fields:
        if field == 'behaviors':
            raise UserError(
                'cannot be set by a flag', where='--config.behaviors', fix='set it in a config file'
            )
        if field not in known:
            # A field of that name in another section is a better guess than a similar spelling.
            name = field.rpartition('.')[2]
            near = [path for path in known if path.rpartition('.')[2] == name]
            near = near or difflib.get_close_matches(field, known, n=1)
            raise UserError(
                f'unknown config field {field!r}',
                fix=f'did you mean --config.{near[0]}?' if near else '',
            )
    if fields and not values:
        raise UserError('flag --config is missing', fix='name a config file: --config=FILE.py')
    path = values[-1].split(':', 1)[0] if values else ''
    if values and not os.path.isfile(path):
        raise UserError('no such config file', where=path or '--config')
    return path


def _flag_error(error: flags.Error, path: str) -> UserError:
    """Returns a flag error as one line."""
    message = str(error).strip()
    if 'Error whilst parsing config file' in message:
        line = message.splitlines()[-1].split(f'{UserError.__module__}.UserError: ')[-1]
        return UserError(line.strip(), where=path)
    if missing := re.match(r'flag --(\S+)=None: .*must have a value', message):
        if missing[1] == 'config' and path:
            return UserError('get_config() does not return a RunConfig', where=path)
        return UserError(f'flag --{missing[1]} is missing')
    # absl raises tuples for Booleans.
    return UserError(re.sub(r"\('Non-boolean .*?, (.*)\)$", r'\1 is not true or false', message))


def _check_encoding(args: Sequence[str]) -> None:
    """Raises UserError for an argument that is not text in the encoding of the terminal."""
    for before, arg in itertools.pairwise(args):
        if any('\ud800' <= c <= '\udfff' for c in arg):
            flag = re.match('--?[^=]+', arg) or re.fullmatch('--?[^=]+', before)
            raise UserError(
                'is not valid text',
                where=flag[0] if flag else 'flags',
                fix=f'encode it as {sys.getfilesystemencoding()}',
            )


def _resolve_types(cls: type) -> None:
    """Turns postponed annotations into types, which config_flags reads from dataclass fields."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        field.type = hints[field.name]
        if dataclasses.is_dataclass(field.type):
            _resolve_types(field.type)

"""What the apps share: flags in, one call, exit code out.

Results go to stdout, everything else to stderr. Importing this module imports no jax, and flags
and config files are checked before `main` runs: an app that imports jax inside `main` rejects a
mistyped flag at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections import config_flags

from bsft_jax import cache
from bsft_jax import config as config_lib
from bsft_jax.errors import EXIT_DOES_NOT_FIT, EXIT_RESTART, EXIT_USER, DoesNotFit, Preempted, UserError
from bsft_jax.parallel import settings

EXIT_INTERRUPTED = 130
CACHE_FROM_SECONDS = '0.1'  # of compilation
QUIET = -2  # absl's verbosity for errors only

flags.disclaim_key_flags()


def define_config() -> flags.FlagHolder[config_lib.RunConfig]:
    """Defines the required flag `--config=FILE[:ARG]` with its overrides `--config.section.field=value`.

    FILE is a Python file whose `get_config(arg='')` returns a RunConfig.
    """
    _resolve_types(config_lib.RunConfig)
    holder = config_flags.DEFINE_config_file(
        'config',
        help_string='FILE.py[:ARG], whose get_config(ARG) returns a RunConfig; '
        'override single fields by --config.section.field=value.',
        lock_config=True,
    )
    flags.mark_flag_as_required('config')
    return holder


def keep_compiled() -> None:
    """What a command compiles later ones find: `JAX_COMPILATION_CACHE_DIR`, by default in the user's cache folder."""
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache.home() / 'xla'))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', CACHE_FROM_SECONDS)


def run(main: Callable[[Sequence[str]], None]) -> typing.NoReturn:
    """Parses the flags, calls `main`, and exits with a code of `bsft_jax.errors`.

    UserError, and whatever is wrong with a flag or a config file, ends with one line on stderr
    and exit code 2; `-v=1` adds the traceback. DoesNotFit exits 3, Preempted 75, Ctrl-C 130. Libraries are
    quiet below errors unless `--verbosity` says otherwise.
    """
    os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
    keep_compiled()
    settings.take_cards()
    try:
        app.run(main, flags_parser=_parse_flags)
    except UserError as error:
        if re.search(r'\s--?(v|verbosity)[= ]\d', ' '.join(sys.argv)):
            traceback.print_exc()
        print(f'error: {error}', file=sys.stderr)
        sys.exit(EXIT_USER)
    except DoesNotFit as verdict:
        print(f'does not fit: {verdict}', file=sys.stderr)
        sys.exit(EXIT_DOES_NOT_FIT)
    except Preempted as stopped:
        print(f'stopped: {stopped}' if str(stopped) else 'stopped', file=sys.stderr)
        sys.exit(EXIT_RESTART)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _parse_flags(args: list[str]) -> list[str]:
    flags.FLAGS['verbosity'].value = QUIET
    path = _check_config_arguments(args) if 'config' in flags.FLAGS else ''
    try:
        rest = flags.FLAGS(args)
    except SystemExit:  # absl exits 1 after --help
        sys.exit(0)
    except flags.Error as error:
        raise _flag_error(error, path) from error
    except Exception as error:
        raise UserError(f'{type(error).__name__}: {error}', where=path or 'flags') from error
    if len(rest) > 1:
        raise UserError(f'unexpected argument {rest[1]!r}', fix='flags are spelled --name=value')
    if path and not isinstance(flags.FLAGS['config'].value, (config_lib.RunConfig, str)):
        raise UserError('get_config() does not return a RunConfig', where=path)
    if flags.FLAGS['verbosity'].using_default_value:  # app.run would raise it to INFO
        flags.FLAGS.verbosity = QUIET
    return rest


def _check_config_arguments(args: Sequence[str]) -> str:
    """Path of the config file named in `args`; raises UserError for what config_flags reports badly."""
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
            near = difflib.get_close_matches(field, known, n=1)
            raise UserError(
                f'unknown config field {field!r}', fix=f'did you mean --config.{near[0]}?' if near else ''
            )
    if fields and not values:
        raise UserError('flag --config is missing', fix='name a config file: --config=FILE.py')
    path = values[-1].split(':', 1)[0] if values else ''
    if values and not os.path.isfile(path):
        raise UserError('no such config file', where=path or '--config')
    return path


def _flag_error(error: flags.Error, path: str) -> UserError:
    message = str(error).strip()
    if 'Error whilst parsing config file' in message:
        line = message.splitlines()[-1].split(f'{UserError.__module__}.UserError: ')[-1]
        return UserError(line.strip(), where=path)
    if missing := re.match(r'flag --(\S+)=None: .*must have a value', message):
        if missing[1] == 'config' and path:
            return UserError('get_config() does not return a RunConfig', where=path)
        return UserError(f'flag --{missing[1]} is missing')
    return UserError(message)


def _resolve_types(cls: type) -> None:
    """Turns postponed annotations into types: config_flags reads them from the dataclass fields."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        field.type = hints[field.name]
        if dataclasses.is_dataclass(field.type):
            _resolve_types(field.type)

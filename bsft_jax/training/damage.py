"""Tells damage of a checkpoint, which another step replaces, from errors of the machine."""

from __future__ import annotations

import dataclasses
import errno
import re
from typing import Any

import jax

from bsft_jax.errors import UserError
from bsft_jax.training import fingerprints
from bsft_jax.training.telemetry import Clock


def system_code(error: BaseException) -> int | None:
    """Returns the number of the operating system's error behind an exception, if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        # tensorstore raises ValueError for every error of the operating system.
        if code := re.search(r"os_error_code='(\d+)'", str(cause)):
            return int(code[1])
        cause = cause.__cause__
    return None


def is_damage(error: BaseException) -> bool:
    """Returns whether a restore failed because of the files, not of device, host or storage."""
    code = system_code(error)
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, FileNotFoundError) or code in (errno.ENOENT, errno.ENOTDIR):
        return True
    return code is None and not isinstance(
        error, (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError)
    )


def changed_item(items: dict[str, Any], step: int) -> str:
    """Returns what is wrong with the JSON items that belong to the state of this step, or ''.

    Earlier versions stored no digests; their items are only checked for their form.
    """
    for name, mark in items['fingerprints'].get('json', {}).items():
        if fingerprints.of_json(items[name]) != mark:
            return f'{name} is not as it was saved'
    if items['data']['step'] != step:
        return f'its state is that of step {step}, its data of step {items["data"]["step"]}'
    known = {field.name for field in dataclasses.fields(Clock)}
    if not all(k in known and type(v) in (int, float) for k, v in items['clock'].items()):
        return 'clock is not as it was saved'
    return ''

"""Tests of errors that the surroundings cause: each is one line that says what and where."""

import errno

import numpy as np
import pytest

from bsft_jax.errors import UserError, as_user_error


def line(error, memory_fix=''):
    explained = as_user_error(error, memory_fix)
    assert explained is not None and '\n' not in str(explained)
    return str(explained)


def raised(call, *arguments):
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ('number', 'reason'),
    [
        (errno.ENOSPC, 'No space left on device'),
        (errno.EDQUOT, 'Disk quota exceeded'),
        (errno.EROFS, 'Read-only file system'),
        (errno.EACCES, 'Permission denied'),
        (errno.ENAMETOOLONG, 'File name too long'),
        (errno.EIO, 'Input/output error'),
    ],
)
def test_a_file_is_named_with_the_reason(number, reason):
    assert line(OSError(number, reason, 'runs/a\x1b')) == f'runs/a\\x1b: {reason}'
    both = OSError(number, reason, 'a', None, 'b')
    assert line(both) == f'a → b: {reason}'
    # `write` does not know its file's name.
    assert line(OSError(number, reason)) == f'{reason}; add -v=1 to see where'
    assert line(OSError(number, reason, 3)) == f'{reason}; add -v=1 to see where'


def test_files_of_the_system_itself(tmp_path):
    (tmp_path / 'file').touch()
    assert line(raised(open, tmp_path / 'file' / 'x')).endswith('x: Not a directory')
    assert line(raised(open, tmp_path)).endswith(': Is a directory')
    assert line(raised(open, b'\xff/x')) == '\\udcff/x: No such file or directory'
    assert line(ConnectionError('no route\nat all')) == 'no route; add -v=1 to see where'
    assert line(OSError()) == 'OSError; add -v=1 to see where'


@pytest.mark.parametrize(
    'text',
    [
        'Error while serializing: I/O error: No space left on device (os error 28)',
        'INTERNAL: [ENOSPC] write failed\nNo space left on device',
        'Disk quota exceeded',
        'ABORTED: File too large [os_error_code="EFBIG"]',
    ],
)
def test_a_full_disk_in_the_words_of_a_library(text):
    assert line(RuntimeError(text)).endswith('; make room and start again')


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        raised(np.zeros, 2**50),
        RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nLargest …'),
        ValueError('RESOURCE_EXHAUSTED: Attempting to allocate 9.00G.'),
        RuntimeError('CUDA_ERROR: Out of memory'),
    ],
)
def test_too_little_memory_says_what_to_lower(error):
    assert line(error, 'lower x').startswith('out of memory')
    assert line(error, 'lower x').endswith('; lower x')


def test_text_and_nesting():
    assert line(raised(b'\xff'.decode)).startswith("text that is not valid Unicode ('utf-8' codec")
    assert line(raised('\ud800'.encode)).startswith('text that is not valid Unicode')

    def endless():
        endless()

    assert line(raised(endless)).startswith('data that is nested too deeply')


@pytest.mark.parametrize(
    'error', [KeyError('x'), ValueError('x'), AssertionError(), TypeError('x')]
)
def test_a_bug_is_not_explained_away(error):
    assert as_user_error(error) is None


def test_a_line_for_the_user_stays_as_it_is():
    error = UserError('out of memory', where='here')
    assert as_user_error(error, 'lower x') is error

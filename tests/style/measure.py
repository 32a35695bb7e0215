"""Measures how the package is written: docstrings, comments, sizes and names.

`python -m tests.style.measure [PATH...]` prints the measures of the named files (default: the
package) and every line that breaks a limit. `test_style.py` holds the package to the same limits.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'bsft_jax'

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 8
MAX_KERNEL_PARAMETERS = 10
MAX_COLUMNS = 100
MAX_MODULES_PER_NAME = 2
MIN_VERB_SHARE = 0.60
MAX_RELATIVE_SHARE = 0.01
# Full-line comments per 100 non-blank lines of ops/.
MIN_OPS_COMMENTS = 3.0

# Names that several modules have on purpose, with one meaning.
SHARED_NAMES = frozenset({'main', 'build', 'load', 'read'})

# First words that make a docstring a relative clause.
RELATIVE = frozenset(
    {'how', 'of', 'that', 'what', 'when', 'where', 'whether', 'which', 'who', 'why'}
)
# Third-person verbs end in `s`; the words of this file do too and are none.
_NOT_VERBS = frozenset((pathlib.Path(__file__).parent / 'nouns_in_s.txt').read_text().split())


@dataclasses.dataclass(frozen=True)
class Docstring:
    """Holds one docstring with the position of what it documents."""

    where: str
    kind: str
    text: str

    @property
    def first_word(self) -> str:
        """Returns the first word in lower case, without punctuation."""
        match = re.match(r'[`"\'*(]*([A-Za-z]+)', self.text)
        return match[1].lower() if match else ''

    @property
    def opens_with_clause(self) -> bool:
        """Returns whether the docstring opens with a relative clause."""
        return self.first_word in RELATIVE

    @property
    def opens_with_verb(self) -> bool:
        """Returns whether the docstring opens with a verb in the third person."""
        word = self.first_word
        return len(word) > 3 and word.endswith('s') and word not in _NOT_VERBS


def python_files(paths: Sequence[pathlib.Path] = (PACKAGE,)) -> list[pathlib.Path]:
    """Returns the Python files at or below the paths, sorted."""
    files = {p for path in paths for p in ([path] if path.is_file() else path.rglob('*.py'))}
    return sorted(files)


def _relative(path: pathlib.Path) -> str:
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if ROOT in path.parents else str(path)


def _definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node


def docstrings(path: pathlib.Path) -> list[Docstring]:
    """Returns the docstrings of a file: its module's, its classes' and its functions'."""
    tree, name = ast.parse(path.read_text()), _relative(path)
    found = []
    if text := ast.get_docstring(tree):
        found.append(Docstring(f'{name}:1', 'module', text))
    for node in _definitions(tree):
        if text := ast.get_docstring(node):
            kind = 'class' if isinstance(node, ast.ClassDef) else 'function'
            found.append(Docstring(f'{name}:{node.lineno}', kind, text))
    return found


def comment_rate(files: Iterable[pathlib.Path]) -> float:
    """Returns full-line comments per 100 non-blank lines."""
    lines = [line.strip() for path in files for line in path.read_text().splitlines()]
    lines = [line for line in lines if line]
    return 100 * sum(line.startswith('#') for line in lines) / max(len(lines), 1)


def too_large(path: pathlib.Path) -> list[str]:
    """Returns a line for each limit of size that a file breaks."""
    name, text = _relative(path), path.read_text()
    lines, broken = text.splitlines(), []
    if len(lines) > MAX_FILE_LINES:
        broken.append(f'{name}: {len(lines)} lines, at most {MAX_FILE_LINES}')
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            broken.append(f'{name}:{number}: {len(line)} columns, at most {MAX_COLUMNS}')
    most = MAX_KERNEL_PARAMETERS if '/ops/' in name else MAX_PARAMETERS
    for node in _definitions(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            continue
        where, length = f'{name}:{node.lineno}: {node.name}', node.end_lineno - node.lineno + 1
        if length > MAX_FUNCTION_LINES:
            broken.append(f'{where} has {length} lines, at most {MAX_FUNCTION_LINES}')
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(arg.arg not in ('self', 'cls') for arg in args)
        if count > most:
            broken.append(f'{where} has {count} parameters, at most {most}')
    return broken


def repeated_names(files: Iterable[pathlib.Path]) -> dict[str, list[str]]:
    """Returns module-level functions and classes that more than two modules define.

    Names in SHARED_NAMES are left out, and so are private ones.
    """
    modules = collections.defaultdict(list)
    for path in files:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
                modules[node.name].append(_relative(path))
    return {
        name: places
        for name, places in sorted(modules.items())
        if len(places) > MAX_MODULES_PER_NAME and name not in SHARED_NAMES
    }


def main(argv: Sequence[str]) -> None:
    """Prints the measures of the files at the paths and each line that breaks a limit."""
    files = python_files([pathlib.Path(arg) for arg in argv] or [PACKAGE])
    found = [docstring for path in files for docstring in docstrings(path)]
    clauses = [docstring for docstring in found if docstring.opens_with_clause]
    functions = [docstring for docstring in found if docstring.kind == 'function']
    verbs = sum(docstring.opens_with_verb for docstring in found)
    for docstring in clauses:
        print(f'{docstring.where}: opens with a clause: {docstring.text.splitlines()[0]}')
    for docstring in functions:
        if not docstring.opens_with_verb and not docstring.opens_with_clause:
            print(f'{docstring.where}: no verb: {docstring.text.splitlines()[0]}')
    for path in files:
        print(*too_large(path), sep='\n', end='\n' if too_large(path) else '')
    for name, places in repeated_names(files).items():
        print(f'{name} is defined in {", ".join(places)}')
    total = max(len(found), 1)
    print(f'{len(files)} files, {len(found)} docstrings')
    print(f'  opening with a verb {verbs / total:.1%} (goal {MIN_VERB_SHARE:.0%} or more)')
    clause_share = len(clauses) / total
    print(f'  opening with a clause {clause_share:.1%} (goal {MAX_RELATIVE_SHARE:.0%} or less)')
    print(f'  full-line comments per 100 lines {comment_rate(files):.2f}')


if __name__ == '__main__':
    main(sys.argv[1:])

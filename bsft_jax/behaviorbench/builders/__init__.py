"""Task builders: one module per category turns a case into scenes.

A builder module defines `CATEGORY`, the category's declaration, and `build(case, wording)`, which
returns the scenes. This package finds the modules and puts them in the order of the taxonomy. To
add a category, write its module, named as the category, and add the name with its group to
`bsft_jax/records/taxonomy.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from bsft_jax.behaviorbench.builders.difficulty import DEFAULT_DIFFICULTY, build_records
from bsft_jax.behaviorbench.builders.scene import Builder, CategorySpec
from bsft_jax.behaviorbench.simulator.cases import Case
from bsft_jax.records.record import Record
from bsft_jax.records.taxonomy import CATEGORIES


def _builder_modules() -> list[ModuleType]:
    """Returns the modules of this package that define a category, in the order of the taxonomy."""
    names = [module.name for module in pkgutil.iter_modules(__path__, f'{__name__}.')]
    modules = [importlib.import_module(name) for name in names]
    # The position in the taxonomy, not the file's name, decides: it sets the order of the records.
    order = list(CATEGORIES)
    return sorted(
        (module for module in modules if hasattr(module, 'CATEGORY')),
        key=lambda module: order.index(module.CATEGORY.name),
    )


_MODULES = _builder_modules()
SPECS: tuple[CategorySpec, ...] = tuple(module.CATEGORY for module in _MODULES)
BUILDERS: dict[str, Builder] = {module.CATEGORY.name: module.build for module in _MODULES}


def records_of(
    case: Case,
    *,
    held_out: bool,
    difficulty: int = DEFAULT_DIFFICULTY,
    categories: Sequence[str] = tuple(BUILDERS),
) -> list[Record]:
    """Returns the records of a case in the categories.

    Args:
      case: the case.
      held_out: whether to use the phrasings that only the test split uses.
      difficulty: the difficulty level, one of `difficulty.DIFFICULTIES`.
      categories: names of categories; default all.
    """
    return [
        record
        for category in categories
        for record in build_records(
            category, BUILDERS[category], case, held_out=held_out, difficulty=difficulty
        )
    ]

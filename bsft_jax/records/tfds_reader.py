"""Reader of `behavior_bench` data sets that TensorFlow Datasets stored, without TensorFlow.

`bsft_jax.data.tfds_builder` writes them, with one feature per field of a Record.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.records import readers

DATASET_NAME = 'behavior_bench'

TEXT_FEATURES = (
    'id',
    'case_id',
    'pair_id',
    'split',
    'source',
    'license',
    'category',
    'group',
    'behavior',
    'rationale',
    'text',
)
LIST_FEATURES = ('options', 'option_behaviors')
# Stored as JSON: TFDS cannot read lists of lists without TensorFlow.
JSON_FEATURES = ('messages', 'must_mention', 'must_not_mention')
# Stored as the `answer` and the `difficulty` of a record without one.
NO_ANSWER = -1
NO_DIFFICULTY = 0

_LIBRARY = 'tensorflow_datasets'


def read_tfds_splits(name: str) -> dict[str, readers.Rows]:
    """Opens a `behavior_bench` data set that TFDS has prepared.

    Args:
      name: `behavior_bench/CONFIG`, below the folder `$TFDS_DATA_DIR` (default
        `~/tensorflow_datasets`), or the folder of one version.

    Returns:
      Split → its rows.

    Raises:
      UserError: for a data set that is not prepared, cannot be read, or is another one.
    """
    import tensorflow_datasets as tfds

    where = f'tfds:{name}'
    fix = 'prepare --format=tfds --output=DIR first, and name DIR in TFDS_DATA_DIR'
    not_ours = UserError(f'is not {DATASET_NAME}', where=where, fix='read other sets by hf:')
    not_prepared = UserError('is not prepared', where=where, fix=fix)
    is_folder = pathlib.Path(name).is_dir()
    if not is_folder and re.split('[/:]', name)[0] != DATASET_NAME:
        raise not_ours
    try:
        if is_folder:
            builder: Any = tfds.builder_from_directory(name)
        else:
            # From the files alone, so that the builder's class need not be registered.
            data_dir = os.environ.get('TFDS_DATA_DIR')
            builder = tfds.core.read_only_builder.builder_from_files(
                name, data_dir=data_dir and os.path.expanduser(data_dir)
            )
        splits = {split: builder.as_data_source(split=split) for split in builder.info.splits}
    except tfds.core.registered.DatasetNotFoundError as error:
        raise not_prepared from error
    # Errors of TFDS, protobuf, array_record and the system.
    except Exception as error:
        raise readers.unreadable(_LIBRARY, error, where, fix=fix) from error
    if builder.name != DATASET_NAME:
        raise not_ours
    if not splits:
        raise not_prepared
    return {split: _rows_of_split(f'{where}: {split}', rows) for split, rows in splits.items()}


def _rows_of_split(name: str, rows: Sequence[dict[str, Any]]) -> readers.Rows:
    for number in range(len(rows)):
        where = f'{name} row {number}'
        try:
            obj = _from_features(rows[number])
        # A damaged file.
        except Exception as error:
            raise readers.unreadable(_LIBRARY, error, where) from error
        yield where, obj


def _from_features(features: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON object of a record; inverts `tfds_builder.to_features`."""
    obj: dict[str, Any] = {name: features[name].decode() for name in TEXT_FEATURES}
    obj |= {name: [text.decode() for text in features[name]] for name in LIST_FEATURES}
    obj |= {name: json.loads(features[name]) for name in JSON_FEATURES}
    answer = int(features['answer'])
    return obj | {
        'hard': bool(features['hard']),
        'answer': None if answer == NO_ANSWER else answer,
        # Version 1.0.0 of the data set has no difficulty.
        'difficulty': int(features.get('difficulty', NO_DIFFICULTY)) or None,
    }

"""`behavior_bench` of TensorFlow Datasets, stored as array_record and read without TensorFlow.

    import tensorflow_datasets as tfds
    from bsft_jax.behaviorbench import tfds_builder     # registers it

    tfds.builder('behavior_bench/synthetic', file_format='array_record').download_and_prepare()

`prepare --format=tfds` makes the same folders of any source. `open` and `jsonl` read what lies in TFDS's manual folder
(`downloads/manual`), as the sources `open:` and `jsonl:` do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bsft_jax.behaviorbench import rows
from bsft_jax.behaviorbench.records import SPLITS, Record, record_to_dict
from bsft_jax.errors import UserError

NAME = 'behavior_bench'
_TEXTS = (
    'id', 'case_id', 'pair_id', 'split', 'source', 'license', 'category', 'group', 'behavior', 'rationale', 'text',
)  # fmt: skip
_LISTS = ('options', 'option_behaviors')
_NESTED = (
    'messages',
    'must_mention',
    'must_not_mention',
)  # JSON: TFDS cannot read lists of lists without TensorFlow
_NO_ANSWER = -1


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(tfds.core.BuilderConfig):
    """`source` as in `sources.load_raw`; `{manual}` is TFDS's folder of files that a user brings."""

    source: str


class BehaviorBench(tfds.core.GeneratorBasedBuilder):
    """Records of `prepare`, a feature per field.

    Args:
      records: what is stored; default what the source of the config gives.
    """

    VERSION = tfds.core.Version('1.0.0')
    BUILDER_CONFIGS = (
        Config(name='synthetic', source='synthetic:1000', description='1,000 simulated cases, seed 0.'),
        Config(name='open', source='open:{manual}', description='Public clinical sets.'),
        Config(
            name='jsonl',
            source='jsonl:{manual}',
            description='A folder that prepare wrote, or your own records.',
        ),
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'open: a folder per set, see docs/data.md. jsonl: train.jsonl and the others.'
    )

    def __init__(self, *, records: Sequence[Record] | None = None, **kwargs: Any):
        self._records = records
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        texts = tfds.features.Tensor(shape=(None,), dtype=np.str_)
        features: dict[str, Any] = {name: tfds.features.Text() for name in (*_TEXTS, *_NESTED)}
        features |= dict.fromkeys(_LISTS, texts)
        features |= {'hard': np.bool_, 'answer': np.int64}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            description='Clinical tasks that ask for an answer or for initiative, each with the right behavior.',
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        records = self._records
        if records is None:
            from bsft_jax.behaviorbench import sources

            source = self.builder_config.source
            manual = dl_manager.manual_dir if '{manual}' in source else ''
            records, _ = sources.load_raw(source.format(manual=manual), seed=0)
        of_split = {split: [r for r in records if r.split == split] for split in SPLITS}
        return {split: self._generate_examples(found) for split, found in of_split.items() if found}

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, record in enumerate(records):
            yield number, _to_features(record)


def _to_features(record: Record) -> dict[str, Any]:
    obj = record_to_dict(record)
    features: dict[str, Any] = {name: obj.get(name, '') for name in _TEXTS}
    features |= {name: np.array(obj.get(name, []), np.str_).astype(object) for name in _LISTS}
    features |= {name: json.dumps(obj.get(name, []), ensure_ascii=False) for name in _NESTED}
    answer = _NO_ANSWER if record.answer is None else record.answer
    return features | {'hard': record.hard, 'answer': answer}


def _from_features(features: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a record."""
    obj: dict[str, Any] = {name: features[name].decode() for name in _TEXTS}
    obj |= {name: [text.decode() for text in features[name]] for name in _LISTS}
    obj |= {name: json.loads(features[name]) for name in _NESTED}
    answer = int(features['answer'])
    return obj | {'hard': bool(features['hard']), 'answer': None if answer == _NO_ANSWER else answer}


def write(directory: str | os.PathLike, config: str, records: Sequence[Record]) -> dict[str, int]:
    """Stores records in `directory/behavior_bench/CONFIG/VERSION`, in their order.

    Returns the files that hold them, relative to `directory`, and how many each has.
    """
    tfds.display_progress_bar(False)
    builder = BehaviorBench(
        records=records, config=config, data_dir=os.fspath(directory), file_format='array_record'
    )
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as nothing:
        builder.download_and_prepare(download_dir=nothing, download_config=options)  # it speaks of a download
    return {
        os.path.relpath(path, directory): count
        for split in builder.info.splits.values()
        for path, count in zip(split.filepaths, split.shard_lengths, strict=True)
    }


def read(name: str) -> dict[str, rows.Rows]:
    """Split → its rows, of a prepared set of TFDS.

    Args:
      name: `behavior_bench/CONFIG`, below the folder `$TFDS_DATA_DIR` (default `~/tensorflow_datasets`), or the folder
        of one version.

    Raises UserError for a set that is not prepared or is another one.
    """
    where = f'tfds:{name}'
    fix = 'prepare --format=tfds --output=DIR first, and name DIR in TFDS_DATA_DIR'
    try:
        if pathlib.Path(name).is_dir():
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, data_dir=os.environ.get('TFDS_DATA_DIR'))
        found = {split: builder.as_data_source(split=split) for split in builder.info.splits}
    except Exception as error:  # TFDS's own, protobuf's, array_record's and the system's
        raise UserError(_unreadable(error), where=where, fix=fix) from error
    if builder.name != NAME:
        raise UserError(f'is not {NAME}', where=where, fix='read other sets by hf:')
    if not found:
        raise UserError('is not prepared', where=where, fix=fix)
    return {split: _rows(f'{where}: {split}', source) for split, source in found.items()}


def _unreadable(error: Exception) -> str:
    what = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f'cannot be read by tensorflow_datasets ({what})'


def _rows(where: str, source: Sequence[dict[str, Any]]) -> rows.Rows:
    for number in range(len(source)):
        try:
            obj = _from_features(source[number])
        except Exception as error:  # a damaged file
            raise UserError(_unreadable(error), where=f'{where} row {number}') from error
        yield f'{where} row {number}', obj

"""Builder of `behavior_bench` for TensorFlow Datasets, stored as array_record without TensorFlow.

    import tensorflow_datasets as tfds
    from bsft_jax.data import tfds_builder     # registers the builder

    tfds.builder('behavior_bench/synthetic', file_format='array_record').download_and_prepare()

`prepare --format=tfds` writes the same folders from any source. The configs `open` and `jsonl` read
the files in TFDS's manual folder (`downloads/manual`), as the sources `open:` and `jsonl:` do.
`bsft_jax.records.tfds_reader` reads the folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bsft_jax.data import sources
from bsft_jax.records.record import SPLITS, Record, record_to_dict
from bsft_jax.records.tfds_reader import (
    JSON_FEATURES,
    LIST_FEATURES,
    NO_ANSWER,
    NO_DIFFICULTY,
    TEXT_FEATURES,
)


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(tfds.core.BuilderConfig):
    """Describes one config of the data set.

    Attributes:
      source: as in `sources.load_raw`; `{manual}` stands for TFDS's manual folder, where users put
        files.
    """

    source: str


# TFDS derives the name of the data set, `behavior_bench`, from that of the class.
class BehaviorBench(tfds.core.GeneratorBasedBuilder):
    """Stores the records of a source, one feature per field.

    Args:
      records: the records to store (default: those of the config's source).
    """

    VERSION = tfds.core.Version('1.1.0')
    BUILDER_CONFIGS = (
        Config(
            name='synthetic', source='synthetic:1000', description='1,000 simulated cases, seed 0.'
        ),
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
        features: dict[str, Any] = {
            name: tfds.features.Text() for name in (*TEXT_FEATURES, *JSON_FEATURES)
        }
        features |= dict.fromkeys(LIST_FEATURES, texts)
        features |= {'hard': np.bool_, 'answer': np.int64, 'difficulty': np.int64}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            description='Clinical tasks that ask for an answer or for initiative, each with the '
            'right behavior.',
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        records = self._records
        if records is None:
            source = self.builder_config.source
            manual = dl_manager.manual_dir if '{manual}' in source else ''
            records, _ = sources.load_raw(source.format(manual=manual), seed=0)
        by_split = {split: [r for r in records if r.split == split] for split in SPLITS}
        return {split: self._generate_examples(part) for split, part in by_split.items() if part}

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, record in enumerate(records):
            yield number, to_features(record)


def to_features(record: Record) -> dict[str, Any]:
    """Returns the features of a record, as `BehaviorBench` stores them."""
    obj = record_to_dict(record)
    features: dict[str, Any] = {name: obj.get(name, '') for name in TEXT_FEATURES}
    features |= {
        name: np.array(obj.get(name, []), np.str_).astype(object) for name in LIST_FEATURES
    }
    features |= {name: json.dumps(obj.get(name, []), ensure_ascii=False) for name in JSON_FEATURES}
    answer = NO_ANSWER if record.answer is None else record.answer
    return features | {
        'hard': record.hard,
        'answer': answer,
        'difficulty': record.difficulty or NO_DIFFICULTY,
    }


def write_tfds(
    directory: str | os.PathLike, config: str, records: Sequence[Record]
) -> dict[str, int]:
    """Stores records, in their order, in `directory/behavior_bench/CONFIG/VERSION`.

    Returns:
      File, relative to `directory`, → its number of records.
    """
    tfds.display_progress_bar(False)
    builder = BehaviorBench(
        records=records, config=config, data_dir=os.fspath(directory), file_format='array_record'
    )
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS prints about a download, though none takes place.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as empty:
        builder.download_and_prepare(download_dir=empty, download_config=options)
    return {
        os.path.relpath(path, directory): count
        for split in builder.info.splits.values()
        for path, count in zip(split.filepaths, split.shard_lengths, strict=True)
    }

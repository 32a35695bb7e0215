"""What holding a frozen base in int8 costs: logits against those of the same base in bfloat16.

    python -m benchmarks.int8 --model=tiny-clinical
    python -m benchmarks.int8 --model=DIR --data=jsonl:FILE

Activations are float32, so that the difference is that of the weights alone. The float32 base stands
beside them: what bfloat16 itself costs, for a checkpoint of float32 files. Loss is per token of the prompts.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from benchmarks import output
from bsft_jax import cli

_MODEL = flags.DEFINE_string('model', 'tiny-clinical', 'Hugging Face directory, hub id or bundled model.')
_DATA = flags.DEFINE_string('data', 'synthetic:200', 'Data source; prompts of its test records are read.')
_LIMIT = flags.DEFINE_integer('limit', 64, 'Records.', lower_bound=1)
_TEMPLATE = flags.DEFINE_string('chat_template', '', 'Template for a model that has none.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/int8.json', 'File to write.')
DTYPES = ('float32', 'bfloat16', 'int8')


def measure(name: str, source: str, limit: int, template: str) -> dict[str, dict[str, float]]:
    """For each dtype of the base: loss, and its logits against those of the bfloat16 base."""
    from bsft_jax.behaviorbench import sources
    from bsft_jax.hub import model as model_lib
    from bsft_jax.inference import scoring

    logits = {}
    for dtype in DTYPES:
        model = model_lib.load(model_lib.open_base(name, base_dtype=dtype, chat_template=template))
        if not logits:
            records = sources.load_records(source, 'test')[:limit]
            prompts = scoring.renderer_of(model).prompt_ids_of(records)
            prompts = [ids for ids in prompts if len(ids) <= model.network.arch.max_positions]
            width = max(map(len, prompts))
            tokens_BT = np.array([ids + [0] * (width - len(ids)) for ids in prompts])
            real_BT = np.array([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts], bool)
        logits[dtype] = np.asarray(model.logits(tokens_BT, segment_ids_BT=real_BT.astype(np.int32)))[real_BT]
    follows = np.roll(tokens_BT, -1, 1)[real_BT]
    last = np.array([len(ids) for ids in prompts]).cumsum() - 1
    inside = np.setdiff1d(np.arange(len(follows)), last)
    reference, found = logits['bfloat16'], {}
    for dtype, values in logits.items():
        shifted = values - values.max(-1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        error = np.abs(values - reference)
        found[dtype] = {
            'loss': float(-logprobs[inside, follows[inside]].mean()),
            'largest_error': float(error.max()),
            'mean_error': float(error.mean()),
            'deviation_of_logits': float(reference.std()),
            'same_first_token': float((values.argmax(-1) == reference.argmax(-1)).mean()),
        }
    return found


def main(argv) -> None:
    del argv
    found = measure(_MODEL.value, _DATA.value, _LIMIT.value, _TEMPLATE.value)
    print(
        f'{"base":<10}{"loss":>8}{"largest error":>15}{"mean error":>12}{"of deviation":>14}{"same first":>12}'
    )
    for dtype, row in found.items():
        share = row['mean_error'] / row['deviation_of_logits']
        print(
            f'{dtype:<10}{row["loss"]:>8.4f}{row["largest_error"]:>15.4f}{row["mean_error"]:>12.5f}'
            f'{share:>14.4f}{row["same_first_token"]:>12.4f}'
        )
    model = pathlib.Path(_MODEL.value).name
    command = f'python -m benchmarks.int8 --model={model} --data={_DATA.value}'
    output.write(_OUTPUT.value, command, ('jax', 'flax'), model=model, bases=found)


if __name__ == '__main__':
    cli.run(main)

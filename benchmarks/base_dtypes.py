"""Measures what a quantized frozen base costs: its logits against those of the base in bfloat16.

    python -m benchmarks.base_dtypes --model=tiny-clinical
    python -m benchmarks.base_dtypes --model=DIR --data=jsonl:FILE

Activations are float32, so that only the weights differ. The float32 base is measured too: it shows
what bfloat16 itself costs, if the checkpoint is in float32. The loss is per token of the prompts.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from benchmarks import output
from bsft_jax import cli

_MODEL = flags.DEFINE_string(
    'model', 'tiny-clinical', 'Hugging Face directory, hub id or bundled model.'
)
_DATA = flags.DEFINE_string(
    'data', 'synthetic:200', 'Data source; the prompts of its test records are used.'
)
_LIMIT = flags.DEFINE_integer('limit', 64, 'Number of records.', lower_bound=1)
_TEMPLATE = flags.DEFINE_string('chat_template', '', 'Chat template for a model without one.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/base_dtypes.json', 'File to write.')


def measure_dtypes(
    name: str, source: str, limit: int, template: str
) -> dict[str, dict[str, float]]:
    """Returns, for each dtype of the base, the loss and the errors of the logits.

    Errors are differences from the logits of the bfloat16 base. The standard deviation of these
    logits and the share of tokens with the same most probable next token go with them.
    """
    from bsft_jax.commands.export import logit_differences
    from bsft_jax.config import QUANTIZED, ComputeConfig
    from bsft_jax.data import sources
    from bsft_jax.hub import pretrained as model_lib
    from bsft_jax.inference import scoring

    logits = {}
    for dtype in ('float32', 'bfloat16', *QUANTIZED):
        model = model_lib.load_pretrained(
            model_lib.read_pretrained(
                name, ComputeConfig(base_dtype=dtype, attention='auto'), chat_template=template
            )
        )
        if not logits:
            records = sources.load_records(source, 'test')[:limit]
            prompts = scoring.renderer_of(model).prompt_ids_of(records)
            prompts = [ids for ids in prompts if len(ids) <= model.network.arch.max_positions]
            length = max(map(len, prompts))
            tokens_BT = np.array([ids + [0] * (length - len(ids)) for ids in prompts])
            is_token_BT = np.arange(length) < np.array([[len(ids)] for ids in prompts])
        logits[dtype] = np.asarray(
            model.logits(tokens_BT, segment_ids_BT=is_token_BT.astype(np.int32))
        )[is_token_BT]
    # The last token of a prompt has no next token.
    targets = np.roll(tokens_BT, -1, 1)[is_token_BT]
    last = np.array([len(ids) for ids in prompts]).cumsum() - 1
    with_target = np.setdiff1d(np.arange(len(targets)), last)
    reference, results = logits['bfloat16'], {}
    for dtype, values in logits.items():
        shifted = values - values.max(-1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        loss = float(-logprobs[with_target, targets[with_target]].mean())
        results[dtype] = {'loss': loss, **logit_differences(values, reference)}
    return results


def main(argv) -> None:
    """Runs all dtypes, prints a table and writes the result."""
    del argv
    results = measure_dtypes(_MODEL.value, _DATA.value, _LIMIT.value, _TEMPLATE.value)
    print(
        f'{"base":<10}{"loss":>8}{"largest error":>15}{"mean error":>12}'
        f'{"of deviation":>14}{"same first":>12}'
    )
    for dtype, row in results.items():
        share = row['mean_error'] / row['deviation_of_logits']
        print(
            f'{dtype:<10}{row["loss"]:>8.4f}{row["largest_error"]:>15.4f}{row["mean_error"]:>12.5f}'
            f'{share:>14.4f}{row["same_first_token"]:>12.4f}'
        )
    model = pathlib.Path(_MODEL.value).name
    command = f'python -m benchmarks.base_dtypes --model={model} --data={_DATA.value}'
    output.write(_OUTPUT.value, command, ('jax', 'flax'), model=model, bases=results)


if __name__ == '__main__':
    cli.run(main)

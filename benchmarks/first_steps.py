"""Measures how many steps pass until new behavior rows are probable, for several initial values.

    python -m benchmarks.first_steps
    python -m benchmarks.first_steps --bases=smollm2-135m --steps=20

A base is one by name, or a family, of which a tiny model is pretrained first. Every run trains the
same batches; initial values (`model.row_init`) and learning-rate factors of the rows
(`optimizer.behavior_lr_factor`) differ. The script prints the first step with a behavior loss below
`BOUND`, and writes the curves to `benchmarks/results/first_steps.json`; bases that it holds already
stay.
"""

from __future__ import annotations

import json
import pathlib
import tempfile

from absl import flags

from benchmarks import output
from bsft_jax import cli

BOUND = 1.0
# (row_init, behavior_lr_factor)
VARIANTS = (
    ('description', 1.0),
    ('mean', 1.0),
    ('normal', 1.0),
    ('description', 10.0),
    ('fitted', 1.0),
    ('fitted', 10.0),
)
# Family → what its `config.json` needs beyond that of the blank Qwen2.
FAMILIES = {
    'gemma2': {'head_dim': 32, 'query_pre_attn_scalar': 32, 'sliding_window': 256},
    'llama': {},
    'mistral': {'sliding_window': None},
    'qwen3': {'head_dim': 32},
}
# Length and learning rate of a family's pretraining.
PRETRAINING_STEPS, PRETRAINING_LR = 400, 1e-3

_BASES = flags.DEFINE_list(
    'bases', ['tiny-clinical', 'gemma2', 'llama'], 'Names of models, or of FAMILIES.'
)
_STEPS = flags.DEFINE_integer('steps', 60, 'Steps of each run.', lower_bound=2)
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/first_steps.json', 'File to write.')


def pretrain(family: str, folder: pathlib.Path) -> str:
    """Pretrains a tiny model of a family on text about simulated cases; returns its folder."""
    from bsft_jax.commands.export import export
    from bsft_jax.commands.train import train
    from bsft_jax.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
    from bsft_jax.data import tokenizer_training

    blank = folder / 'blank'
    tokenizer_training.create_blank_model(['synthetic_text:2000'], 1500, blank)
    config = json.loads((blank / 'config.json').read_text())
    config |= {'model_type': family, **FAMILIES[family]}
    (blank / 'config.json').write_text(json.dumps(config))
    train(
        RunConfig(
            arm='general_sft',
            model=ModelConfig(base=str(blank), init='random'),
            data=DataConfig(
                source='synthetic_text:8000',
                sequence_length=160,
                train_on='turns',
                answer_format='text',
                max_dropped_fraction=0.1,
            ),
            optimizer=OptimizerConfig(PRETRAINING_LR, schedule_steps=PRETRAINING_STEPS),
        ),
        folder / 'pretraining',
    )
    export(str(folder / 'pretraining'), str(folder / 'base'))
    return str(folder / 'base')


def curve(base: str, row_init: str, lr_factor: float, steps: int) -> dict[str, list[float]]:
    """Trains a run of so many steps; returns behavior and response loss of each."""
    from bsft_jax.commands.train import train
    from configs import quickstart, smollm2_135m

    config = smollm2_135m.get_config() if base == 'smollm2-135m' else quickstart.get_config()
    config.model.base, config.model.row_init = base, row_init
    config.optimizer.behavior_lr_factor = lr_factor
    config.data.source, config.data.curriculum = 'synthetic:100', ''
    config.train.steps, config.log_interval, config.evaluation.interval = steps, 1, 0
    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir)
        text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    names = ('behavior_loss', 'response_loss')
    return {name: [round(line[name], 4) for line in lines] for name in names}


def main(argv) -> None:
    """Trains every variant of every base, prints the first steps and writes the curves."""
    del argv
    path = output.ROOT / _OUTPUT.value
    bases = json.loads(path.read_text())['bases'] if path.is_file() else {}
    for name in _BASES.value:
        with tempfile.TemporaryDirectory() as folder:
            base = pretrain(name, pathlib.Path(folder)) if name in FAMILIES else name
            variants = {
                f'{row} x{lr:g}': curve(base, row, lr, _STEPS.value) for row, lr in VARIANTS
            }
        bases[name] = variants
        for variant, losses in variants.items():
            below = (i for i, loss in enumerate(losses['behavior_loss'], 1) if loss < BOUND)
            print(f'{name:16} {variant:16} {next(below, f"after {_STEPS.value}")}')
        output.write(
            _OUTPUT.value,
            output.command('benchmarks.first_steps', [_BASES, _STEPS]),
            ('bsft_jax', 'jax'),
            bound=BOUND,
            bases=bases,
        )


if __name__ == '__main__':
    cli.run(main)

"""The run that tests train: twelve steps of a tiny model, a checkpoint every four."""

import json

from bsft_jax.config import CheckpointConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig


def small_run(base, mode='full') -> RunConfig:
    """Returns the config of a run of the base at this path."""
    config = RunConfig(
        log_interval=1,
        model=ModelConfig(base=str(base)),
        data=DataConfig(source='synthetic:40', sequence_length=448, global_batch_rows=8),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2, schedule_steps=12),
        checkpoint=CheckpointConfig(interval=4),
    )
    config.train.mode = mode
    return config


def metric_lines(workdir) -> list[dict]:
    """Returns the lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def loss_curve(workdir) -> list[tuple]:
    """Returns step, loss, gradient norm and tokens of each line of metrics.jsonl."""
    return [
        (line['step'], line['loss'], line['gradient_norm'], line['tokens'])
        for line in metric_lines(workdir)
    ]

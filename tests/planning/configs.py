"""The small config that tests of plans change."""

from bsft_jax.config import DataConfig, MeshConfig, RunConfig, TrainConfig


def make_config(mode: str = 'full', rows: int = 8, tokens: int = 64, **mesh) -> RunConfig:
    """Returns a config of this mode, with rows per step, tokens per row, and sizes of mesh axes."""
    return RunConfig(
        mesh=MeshConfig(**{'data': 1, **mesh}),
        data=DataConfig(global_batch_rows=rows, sequence_length=tokens),
        train=TrainConfig(mode=mode),
    )

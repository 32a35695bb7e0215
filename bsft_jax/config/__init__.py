"""The typed description of a run: its fields, the checks on them, and recipes that share them."""

from bsft_jax.config.checks import validate
from bsft_jax.config.schema import (
    ARMS,
    ATTENTION,
    LINEAR_MAPS,
    MESH_AXES,
    MODES,
    QUANTIZED,
    REMAT,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from bsft_jax.config.serialization import (
    FREE_FIELDS,
    differences,
    flatten,
    from_dict,
    read_workdir,
)
from bsft_jax.config.telemetry import TRACKERS, ProfileConfig, TrackingConfig

__all__ = [
    'ARMS',
    'ATTENTION',
    'FREE_FIELDS',
    'LINEAR_MAPS',
    'MESH_AXES',
    'MODES',
    'QUANTIZED',
    'REMAT',
    'TRACKERS',
    'CheckpointConfig',
    'ComputeConfig',
    'DataConfig',
    'EvaluationConfig',
    'LoraConfig',
    'MeshConfig',
    'ModelConfig',
    'OptimizerConfig',
    'ProfileConfig',
    'RunConfig',
    'TrackingConfig',
    'TrainConfig',
    'differences',
    'flatten',
    'from_dict',
    'read_workdir',
    'validate',
]

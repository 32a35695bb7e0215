"""RunConfig: the one typed description of a run.

Fields marked `free` may differ when a run resumes; every other field is fixed (`differences`
lists what changed). Configs in `configs/` return a RunConfig; flags override single fields:
`--config.optimizer.learning_rate=1e-4`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

from bsft_jax import behaviors as behaviors_lib
from bsft_jax.behaviorbench import taxonomy
from bsft_jax.errors import UserError

ARMS = {  # arm → form of the heads of its answers
    'behavior_sft': 'tokens',
    'general_sft': 'none',
    'text_sft': 'words',
    'neutral_token': 'neutral',
    'shuffled_token': 'tokens',
}
MODES = {
    'full': ('.*',),
    'lora': ('.*/lora/[ab]', 'behavior/.*'),
    'behavior_rows': ('behavior/.*',),
}

ATTENTION = ('auto', 'dense', 'splash')
REMAT = ('none', 'dots', 'minimal', 'full', 'offload')
MESH_AXES = ('data', 'fsdp', 'context', 'tensor')

LINEAR_MAPS = (  # of a layer
    *(f'attention/{name}' for name in 'qkvo'),
    *(f'mlp/{name}' for name in ('gate', 'up', 'down')),
)


def free(default: Any) -> Any:
    """A field that may change when a run resumes."""
    return dataclasses.field(default=default, metadata={'free': True})


@dataclasses.dataclass
class ModelSection:
    """The base model.

    `base` is a Hugging Face directory, a hub id or the name of a bundled asset; `weights='random'` takes
    only its architecture and tokenizer and draws the weights from the seed (pretraining).
    `dtype` is the dtype of activations. `base_dtype` is how frozen parameters are held: `float32`,
    `bfloat16`, or with the kernels of linear maps in `int8` beside them; what trains is float32.
    `new_rows` is the first value of new behavior rows: the mean over the tokens of the behavior's
    `description`, the `mean` of the table, or `normal` with the table's mean and deviation.
    `attention` is how rows attend: `dense` products (any device), the `splash` kernel (TPU), or `auto`, which is
    splash on TPUs and dense elsewhere.
    """

    base: str = free('tiny-clinical')
    weights: str = 'checkpoint'
    dtype: str = 'float32'
    base_dtype: str = 'float32'
    new_rows: str = 'description'
    attention: str = free('auto')


@dataclasses.dataclass
class DataSection:
    """What is trained on and how it is laid out.

    `rows_per_step` rows of `sequence_length` tokens make the global batch. `packed=False` keeps
    the records of each step and gives every record its own row. `drop_long` is the largest
    share of records that may be left out because they are longer than a row; `truncate` has a longer
    conversation lose its oldest turns first. `loss_on='turns'` trains on every turn of the assistant,
    `'answer'` on the last alone. A record `without_behavior` is trained on without a token (`plain`) or
    an error (`refuse`). A mixture of sources is written `0.7*SOURCE + 0.3*SOURCE`.
    `label_noise` is the share of labelled training records whose behavior is changed to another;
    `hold_out` names a category that is left out of training and validation. `behavior_weight` is
    the loss weight of an answer's head, spread over its tokens.
    """

    source: str = 'synthetic:1000'
    sequence_length: int = 512
    rows_per_step: int = 16
    packed: bool = True
    behavior_weight: float = 1.0
    answer_format: str = 'letter'
    loss_on: str = 'answer'
    chat_template: str = ''
    drop_long: float = 0.01
    truncate: bool = False
    without_behavior: str = 'plain'
    label_noise: float = 0.0
    hold_out: str = ''


@dataclasses.dataclass
class OptimizerSection:
    """AdamW with linear warmup and cosine decay to `final_ratio` of the peak over `schedule_steps`."""

    learning_rate: float = 1e-4
    warmup_steps: int = 20
    schedule_steps: int = 200
    final_ratio: float = 0.1
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0


@dataclasses.dataclass
class TrainSection:
    """`steps=0` runs to the end of the schedule; a smaller number stops early and can be resumed.

    `remat` names what a layer keeps for its backward pass, which computes the rest again. `none` keeps all. `dots`
    keeps what linear maps give out and attention's output: what is again is cheap. `minimal` keeps attention's
    output alone, so that attention's forward pass is not run again. `full` keeps the layer's input alone: a third
    more products. `offload` keeps on the devices nothing: the layer's input and attention's output wait in the
    memory of the host.
    """

    mode: str = 'full'
    accumulation: int = 1
    remat: str = free('none')
    steps: int = free(0)


@dataclasses.dataclass
class LoraSection:
    """Adapters of `train.mode=lora`; the fields are those of `models.lora.LoraSpec`.

    Rank and alpha are those of the first experiments of Hu et al. (arXiv 2106.09685) times two, on every
    linear map as Dettmers et al. (arXiv 2305.14314) found necessary.
    """

    rank: int = 16
    alpha: float = 32.0
    rank_stabilized: bool = False
    dropout: float = 0.0
    targets: str = '.*'


@dataclasses.dataclass
class MeshSection:
    """Sizes of the mesh axes; one of them may be -1 and takes what is left.

    `data` and `fsdp` split the rows of a batch, `fsdp` the parameters and moments as well; `context` splits
    the tokens of a row, `tensor` heads, feed-forward width and vocabulary. `devices` is how many there must
    be in all processes together; 0 takes what is there.
    """

    data: int = free(-1)
    fsdp: int = free(1)
    context: int = free(1)
    tensor: int = free(1)
    devices: int = free(0)


@dataclasses.dataclass
class CheckpointSection:
    """`interval` in steps; the newest `keep` checkpoints stay."""

    interval: int = free(100)
    keep: int = free(2)


@dataclasses.dataclass
class EvaluationSection:
    """Scores `limit` validation records every `interval` steps (0: never) while training."""

    interval: int = free(0)
    limit: int = free(200)
    tokens_per_batch: int = free(8192)


@dataclasses.dataclass
class RunConfig:
    seed: int = 0
    arm: str = 'behavior_sft'
    behaviors: tuple[behaviors_lib.Behavior, ...] = behaviors_lib.DEFAULT_BEHAVIORS
    log_interval: int = free(10)
    model: ModelSection = dataclasses.field(default_factory=ModelSection)
    data: DataSection = dataclasses.field(default_factory=DataSection)
    optimizer: OptimizerSection = dataclasses.field(default_factory=OptimizerSection)
    train: TrainSection = dataclasses.field(default_factory=TrainSection)
    lora: LoraSection = dataclasses.field(default_factory=LoraSection)
    mesh: MeshSection = dataclasses.field(default_factory=MeshSection)
    checkpoint: CheckpointSection = dataclasses.field(default_factory=CheckpointSection)
    evaluation: EvaluationSection = dataclasses.field(default_factory=EvaluationSection)

    @property
    def steps(self) -> int:
        """Steps to run: `train.steps`, or the schedule's length."""
        return self.train.steps or self.optimizer.schedule_steps

    @property
    def form(self) -> str:
        """What the arm's answers begin with, one of `behaviors.FORMS`."""
        return ARMS[self.arm]

    @property
    def trainable(self) -> tuple[str, ...]:
        """Path regexes of the parameters that train."""
        return MODES[self.train.mode]

    def validate(self) -> RunConfig:
        """Checks everything that can be checked before a device is touched; raises UserError."""

        def choice(field: str, value: str, allowed) -> None:
            if value not in allowed:
                raise UserError(f'{value!r} is not one of {", ".join(allowed)}', where=f'--config.{field}')

        def at_least(field: str, value, lowest) -> None:
            if not value >= lowest:
                raise UserError(f'{value} is below {lowest}', where=f'--config.{field}')

        choice('arm', self.arm, ARMS)
        choice('train.mode', self.train.mode, MODES)
        choice('model.weights', self.model.weights, ('checkpoint', 'random'))
        choice('model.dtype', self.model.dtype, ('float32', 'bfloat16'))
        choice('train.remat', self.train.remat, REMAT)
        choice('model.attention', self.model.attention, ATTENTION)
        choice('model.base_dtype', self.model.base_dtype, ('float32', 'bfloat16', 'int8'))
        choice('model.new_rows', self.model.new_rows, ('description', 'mean', 'normal'))
        choice('data.answer_format', self.data.answer_format, ('letter', 'text'))
        choice('data.loss_on', self.data.loss_on, ('answer', 'turns'))
        choice('data.without_behavior', self.data.without_behavior, ('plain', 'refuse'))
        behaviors_lib.validate_behaviors(self.behaviors)
        if self.data.hold_out:
            choice('data.hold_out', self.data.hold_out, taxonomy.CATEGORIES)
        d, o, t = self.data, self.optimizer, self.train
        for field, value, lowest in (
            ('data.sequence_length', d.sequence_length, 8),
            ('data.rows_per_step', d.rows_per_step, 1),
            ('data.behavior_weight', d.behavior_weight, 0.0),
            ('data.drop_long', d.drop_long, 0.0),
            ('data.label_noise', d.label_noise, 0.0),
            ('optimizer.learning_rate', o.learning_rate, 0.0),
            ('optimizer.warmup_steps', o.warmup_steps, 0),
            ('optimizer.schedule_steps', o.schedule_steps, 1),
            ('optimizer.weight_decay', o.weight_decay, 0.0),
            ('train.accumulation', t.accumulation, 1),
            ('lora.rank', self.lora.rank, 1),
            ('lora.dropout', self.lora.dropout, 0.0),
            ('train.steps', t.steps, 0),
            ('mesh.devices', self.mesh.devices, 0),
            ('checkpoint.interval', self.checkpoint.interval, 1),
            ('checkpoint.keep', self.checkpoint.keep, 1),
            ('evaluation.interval', self.evaluation.interval, 0),
            ('evaluation.limit', self.evaluation.limit, 1),
            ('log_interval', self.log_interval, 1),
        ):
            at_least(field, value, lowest)
        if d.label_noise > 1:
            raise UserError(f'{d.label_noise} is above 1', where='--config.data.label_noise')
        if not o.clip_norm > 0:
            raise UserError(f'{o.clip_norm} is not above 0', where='--config.optimizer.clip_norm')
        self._validate_frozen()
        if self.steps > o.schedule_steps:
            raise UserError(
                f'{t.steps} steps are more than the schedule has ({o.schedule_steps})',
                where='--config.train.steps',
                fix='raise --config.optimizer.schedule_steps',
            )
        if o.warmup_steps >= o.schedule_steps:
            raise UserError(
                f'{o.warmup_steps} warmup steps leave nothing of {o.schedule_steps}',
                where='--config.optimizer.warmup_steps',
            )
        if d.rows_per_step % t.accumulation:
            raise UserError(
                f'{t.accumulation} does not divide the {d.rows_per_step} rows of a step',
                where='--config.train.accumulation',
            )
        if t.mode == 'behavior_rows' and self.form not in ('tokens', 'neutral'):
            raise UserError(
                f'no trainable token: arm {self.arm!r} adds no behavior rows',
                where='--config.train.mode',
                fix='use --config.arm=behavior_sft or --config.train.mode=full',
            )
        self._validate_mesh()
        return self

    def _validate_mesh(self) -> None:
        """Checks what the mesh says before there are devices."""
        sizes = {axis: getattr(self.mesh, axis) for axis in MESH_AXES}
        if sum(s == -1 for s in sizes.values()) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
            raise UserError(
                f'mesh sizes {" ".join(f"{axis}={size}" for axis, size in sizes.items())} must be positive, one may be -1',
                where='--config.mesh',
            )
        context, length = self.mesh.context, self.data.sequence_length
        if context > 1 and length % context:
            raise UserError(
                f'{context} does not divide the {length} tokens of a row',
                where='--config.mesh.context',
                fix='change --config.data.sequence_length',
            )

    def _validate_frozen(self) -> None:
        """Checks what belongs to a frozen base: its dtype and the adapters."""
        if self.train.mode == 'full' and self.model.base_dtype != 'float32':
            raise UserError(
                f'{self.model.base_dtype} is for frozen parameters, and every parameter trains',
                where='--config.model.base_dtype',
                fix='use --config.train.mode=lora or behavior_rows, or --config.model.dtype=bfloat16',
            )
        if self.model.weights == 'random' and self.model.base_dtype == 'int8':
            raise UserError('int8 needs weights of a checkpoint', where='--config.model.base_dtype')
        if not self.lora.dropout < 1:
            raise UserError(f'{self.lora.dropout} is not below 1', where='--config.lora.dropout')
        try:
            targets = re.compile(self.lora.targets)
        except re.error as error:
            raise UserError(f'not a regular expression ({error})', where='--config.lora.targets') from error
        if not any(targets.fullmatch(path) for path in LINEAR_MAPS):
            raise UserError(
                f'{self.lora.targets!r} matches no linear map',
                where='--config.lora.targets',
                fix=f'there are {", ".join(LINEAR_MAPS)}',
            )

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionary of plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
    """Nested dictionary → `{dotted.path: value}`; lists and scalars are values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for key, value in tree.items():
        flat.update(flatten(value, f'{prefix}.{key}' if prefix else key))
    return flat


def _free_paths(cls: type, prefix: str = '') -> set[str]:
    paths = set()
    for field in dataclasses.fields(cls):
        path = f'{prefix}{field.name}'
        if field.metadata.get('free'):
            paths.add(path)
        elif isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
            paths |= _free_paths(field.default_factory, f'{path}.')
    return paths


FREE_FIELDS = frozenset(_free_paths(RunConfig))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fixed fields that differ between two `to_dict()` results, as `path: old → new` lines."""
    old, new = flatten(old), flatten(new)
    return [
        f'{path}: {old.get(path, "absent")} → {new.get(path, "absent")}'
        for path in sorted(old.keys() | new.keys())
        if path not in FREE_FIELDS and old.get(path, ...) != new.get(path, ...)
    ]


def from_dict(values: dict[str, Any]) -> RunConfig:
    """Inverse of `RunConfig.to_dict`; raises UserError for a field this version does not know."""

    def build(cls: type, tree: dict[str, Any], where: str):
        known = {f.name: f for f in dataclasses.fields(cls)}
        kwargs = {}
        for key, value in tree.items():
            if key not in known:
                raise UserError(f'unknown field {where}{key}', where='config.json')
            factory = known[key].default_factory
            if isinstance(factory, type) and dataclasses.is_dataclass(factory):
                value = build(factory, value, f'{where}{key}.')
            elif key == 'behaviors':
                value = tuple(behaviors_lib.Behavior(**b) for b in value)
            kwargs[key] = value
        return cls(**kwargs)

    return build(RunConfig, values, '')


def read_workdir(workdir: str | pathlib.Path) -> RunConfig:
    """The resolved config a workdir was made with; raises UserError where there is none."""
    path = pathlib.Path(workdir) / 'config.json'
    try:
        values = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f'not valid JSON ({error})', where=str(path)) from error
    if 'arm' not in values:
        fix = 'name a --workdir of train, or a Hugging Face directory by --model'
        raise UserError('not a workdir: it holds no config.json of a run', where=str(workdir), fix=fix)
    return from_dict(values)

"""The plan of a run: its real train step, compiled for devices that are not there, and what that says."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.config import RunConfig
from bsft_jax.data.batch import Batch
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, files, presets
from bsft_jax.models import cudnn
from bsft_jax.models.lora import LoraSpec
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import settings, sharding
from bsft_jax.planning import collectives, flops, hlo, roofline
from bsft_jax.planning.topology import Topology
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import placement
from bsft_jax.training import step as step_lib
from bsft_jax.training import workdir as workdir_lib
from bsft_jax.training.state import TrainState
from bsft_jax.trees import flatten

DOCUMENT = 64  # tokens of the shortest record, since a plan sees none
_SPOKEN = r'-|_|meta|instruct|chat|base|hf|[ip]t$'  # of a published name, what its preset does without
_SCORES = 'BKRH,BKSH->BKRS/'  # the einsum of scores in models.attention, which names its products
_SIZE = re.compile(r'([\d.]+)([KMGT]?)i?B?')


def network_of(config: RunConfig) -> Network:
    """The network of a run, without a file of its base where the base is a published hub id with a preset.

    There the behavior ids are the last of the table: which they are changes no size. Of other hub ids no weights are
    fetched.
    """
    named = _preset(config.model.base) if files.is_hub_id(config.model.base) else None
    if named is None:
        base = str(files.resolve_directory(config.model.base, weights=False))
        model = dataclasses.replace(config.model, base=base)
        return workdir_lib.open_base(dataclasses.replace(config, model=model)).network
    arch = configs.architecture_of(presets.preset(named))
    rows = len(BehaviorSet(config.behaviors, form=config.form).rows)
    lora = LoraSpec(**dataclasses.asdict(config.lora)) if config.train.mode == 'lora' else None
    ids = tuple(range(arch.vocab_size - rows, arch.vocab_size))
    settings = config.model
    return Network(
        arch, ids, settings.dtype, settings.base_dtype, lora, config.train.remat, settings.attention
    )


def _preset(base: str) -> str | None:
    def plain(name: str) -> str:
        return re.sub(_SPOKEN, '', name.lower())

    asked = plain(base.partition('@')[0].rpartition('/')[2])
    return next((name for name in presets.PRESETS if plain(name) == asked), None)


def lower(config: RunConfig, network: Network, mesh) -> tuple[Any, TrainState, Batch]:
    """The step that `training.loop` compiles, lowered from shapes; the shapes of its state and batch."""
    data = config.data
    if data.sequence_length > network.arch.max_positions:
        raise UserError(
            f'{data.sequence_length} is more than the {network.arch.max_positions} positions of the model',
            where='--config.data.sequence_length',
        )
    state = placement.lay_out(config, network, mesh)
    shape, place = (data.rows_per_step, data.sequence_length), sharding.batch_sharding(mesh)
    dtypes = (jnp.int32, jnp.int32, jnp.float32, jnp.int32, jnp.int32)
    batch = Batch(*(jax.ShapeDtypeStruct(shape, dtype, sharding=place) for dtype in dtypes))
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    step = step_lib.make_train_step(network, optimizer, config.train.accumulation, config.seed)
    # Constants are made while it is traced, somewhere real.
    promised = cudnn.promised() if network.attention == 'cudnn' else contextlib.nullcontext()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), promised:
        traced = step.trace(state, batch)
    with jax.set_mesh(mesh):
        return traced.lower(), state, batch


def plan(config: RunConfig, topology: Topology, devices: Sequence) -> dict[str, Any]:
    """Compiles a run's step for devices and says what it takes; see `docs/scaling.md` for every figure.

    Raises UserError for whatever `train` would refuse before it reads weights.
    """
    config.validate()
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    documents = max(1, config.data.sequence_length // DOCUMENT)
    network = dataclasses.replace(network_of(config).on(mesh), documents=documents)
    lowered, state, batch = lower(config, network, mesh)
    arguments = {
        name: _local_bytes(part)
        for name, part in (
            ('trainable', state.trainable), ('frozen', state.frozen), ('moments', state.opt_state), ('batch', batch)
        )
    }  # fmt: skip
    found = {
        'topology': topology.text,
        'compiler': topology.compiler,
        'devices': len(devices),
        'mesh': {axis: int(size) for axis, size in mesh.shape.items()},
        'rows_per_step': config.data.rows_per_step,
        'sequence_length': config.data.sequence_length,
        'accumulation': config.train.accumulation,
        'remat': config.train.remat,
        'parameters': _parameters(state),
        'flops': formula(config, network, state, len(devices)),
    }
    started, cpu = time.perf_counter(), time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        compiled, message = None, str(error)
    found['compile_seconds'] = round(time.perf_counter() - started, 1)
    found['compile_cpu_seconds'] = round(time.process_time() - cpu, 1)
    if compiled is None:
        found['memory'] = {'arguments': arguments, **refused(message, arguments)}
        found['verdict'] = _verdict(topology, found['memory'])
        return found
    found['memory'] = _memory(compiled.memory_analysis(), arguments)
    found['verdict'] = _verdict(topology, found['memory'])
    module = hlo.parse(compiled.as_text())
    places = [topology.place(device) for device in mesh.devices.ravel()]
    moved, unknown = collectives.find(module, places)
    found['collectives'] = collectives.summary(moved, found['mesh'])
    found['loops_of_unknown_length'] = unknown
    found['attention'] = _attention(network, module)
    found['flops']['compiled'] = flops.compiled(module)
    if topology.chip is not None and network.dtype == 'bfloat16':
        found['estimate'] = roofline.estimate(found, network, topology.chip, places=places, moved=moved)
    return found


def _parameters(state: TrainState) -> dict[str, Any]:
    def count(tree) -> int:
        return sum(
            math.prod(leaf.shape) for path, leaf in flatten(tree).items() if 'kernel_scale' not in path
        )

    total, trained = count(state.params), count(state.trainable)
    return {'total': total, 'trainable': trained, 'trainable_share': trained / total}


def formula(config: RunConfig, network: Network, state: TrainState, devices: int) -> dict[str, float]:
    """FLOPs by formula: a token, and a step of one device."""
    arch, tokens = network.arch, config.data.sequence_length
    trainable, frozen = (flops.multiplying(arch, part) for part in (state.trainable, state.frozen))
    per_token = flops.model(arch, trainable=trainable, frozen=frozen, tokens=tokens)
    return {
        'per_token': per_token,
        'attention_per_token': 3 * flops.attention(arch, tokens),
        'per_device': per_token * tokens * config.data.rows_per_step / devices,
    }


def _local_bytes(tree) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _memory(stats, arguments: dict[str, int]) -> dict[str, Any]:
    """Bytes of a device by kind. `padding` is what the device's layout adds to the arguments."""
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    host = stats.host_temp_size_in_bytes + stats.host_argument_size_in_bytes
    return {
        'arguments': arguments | {'padding': stats.argument_size_in_bytes - sum(arguments.values())},
        'outputs': outputs,
        'temporaries': stats.temp_size_in_bytes,
        'code': stats.generated_code_size_in_bytes,
        'total': stats.argument_size_in_bytes
        + outputs
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes,
        'host': host,
    }


def refused(message: str, arguments: dict[str, int]) -> dict[str, Any]:
    """What a compiler that ran out of memory says: how much it needs, and how much there is."""
    message = ' '.join(message.split())
    if match := re.search(r'Used ([\d.]+\w?) of ([\d.]+\w?) hbm', message):
        total, capacity = map(_bytes, match.groups())
        return {'total': total, 'capacity': capacity, 'message': match[0]}
    if match := re.search(r'temporaries \(([\d.]+\w?)\) exceeds available HBM \(([\d.]+\w?)\)', message):
        temporaries, capacity = map(_bytes, match.groups())
        total = temporaries + sum(arguments.values())
        return {'temporaries': temporaries, 'total': total, 'capacity': capacity, 'message': match[0]}
    return {'total': None, 'capacity': None, 'message': message[:300]}


def _bytes(text: str) -> int:
    number, unit = _SIZE.match(text).groups()
    return int(float(number) * 1024 ** ' KMGT'.index(unit or ' '))


def _verdict(topology: Topology, memory: dict[str, Any]) -> dict[str, Any]:
    """`fits` is None for simulated devices, which have no memory of their own."""
    if 'message' in memory:
        return {'fits': False, 'by': 'the compiler'}
    if topology.chip is None:
        return {'fits': None, 'by': 'simulated devices have no memory of their own'}
    if topology.platform == 'tpu':
        memory['capacity'] = topology.chip.memory
        return {'fits': True, 'by': 'the compiler'}
    memory['capacity'] = int(settings.CARD_SHARE * topology.chip.memory)
    return {'fits': memory['total'] <= memory['capacity'], 'by': 'an estimate'}


def _attention(network: Network, module: hlo.Module) -> dict[str, Any]:
    """The back end asked for, and what the program has: calls of TPU kernels a step, dense products of scores."""
    runs, _ = module.runs()
    ran = [
        (runs[name], one)
        for name, all_of in module.computations.items()
        for one in all_of.values()
        if runs[name]
    ]
    return {
        'back_end': network.attention,
        'kernel_calls': sum(times for times, one in ran if 'tpu_custom_call' in one.attributes),
        'dense_scores': any(_SCORES in one.attributes for _, one in ran),
    }

"""The plan of a run: its real train step, compiled for devices that you do not have."""

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

from bsft_jax import config as config_lib
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.config import RunConfig
from bsft_jax.data.examples import Batch
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, files, presets
from bsft_jax.models import quantization
from bsft_jax.models.network import Network
from bsft_jax.ops import attention_cudnn
from bsft_jax.ops.hlo_names import SCORES_EINSUM
from bsft_jax.parallel import env, sharding
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.planning import collectives, flops, hlo, roofline
from bsft_jax.planning.topology import Topology
from bsft_jax.pytrees import flatten
from bsft_jax.training import setup
from bsft_jax.training import step as step_lib
from bsft_jax.training.state import TrainState

# Assumed tokens of the shortest record, since a plan reads none: it bounds the segments of a row.
MIN_SEGMENT_TOKENS = 64
# What hub ids have and the names of their presets do not.
_IGNORED_IN_NAMES = r'-|_|meta|instruct|chat|base|hf|[ip]t$'
_SIZE = re.compile(r'([\d.]+)([KMGT]?)i?B?')
# What the compilers say when a program does not fit.
_USED = re.compile(r'Used ([\d.]+\w?) of ([\d.]+\w?) hbm')
_TEMPORARIES = re.compile(r'temporaries \(([\d.]+\w?)\) exceeds available HBM \(([\d.]+\w?)\)')


def planned_network(config: RunConfig) -> Network:
    """Returns the network of a run, reading as little of its base as possible.

    A published hub id with a preset needs no file at all. Its behavior ids are then the last ones
    of the table, since the choice changes no size. Of other hub ids no weights are downloaded.
    """
    base = config.model.base
    preset = _preset_of(base) if files.is_hub_id(base) else None
    if preset is None:
        directory = str(files.resolve_directory(base, weights=False))
        model = dataclasses.replace(config.model, base=directory)
        return setup.read_base(dataclasses.replace(config, model=model)).network
    published = configs.with_shape(presets.preset(preset), config.model.shape)
    arch = configs.architecture_of(published)
    behaviors = BehaviorSet(config.behaviors, prefix_kind=config.prefix_kind)
    first_id = arch.vocab_size - len(behaviors.token_behaviors)
    return Network(arch, tuple(range(first_id, arch.vocab_size)), config.compute)


def _preset_of(base: str) -> str | None:
    """Returns the preset of a hub id, compared without what `_IGNORED_IN_NAMES` matches."""

    def normalize(name: str) -> str:
        return re.sub(_IGNORED_IN_NAMES, '', name.lower())

    wanted = normalize(base.partition('@')[0].rpartition('/')[2])
    return next((name for name in presets.PRESETS if normalize(name) == wanted), None)


def lower_step(config: RunConfig, network: Network, mesh) -> tuple[Any, TrainState, Batch]:
    """Lowers the step that `training.loop` compiles, from shapes alone.

    Returns the lowered step and the shapes of its state and batch. Raises UserError for rows longer
    than the model's positions, and as `setup.abstract_state` does.
    """
    data = config.data
    if data.sequence_length > network.arch.max_positions:
        raise UserError(
            f'{data.sequence_length} is more than the {network.arch.max_positions} positions of '
            'the model',
            where='--config.data.sequence_length',
        )
    state = setup.abstract_state(config, network, mesh)
    shape = (data.global_batch_rows, data.sequence_length)
    batch_sharding = sharding.batch_sharding(mesh)
    dtypes = (jnp.int32, jnp.int32, jnp.float32, jnp.int32, jnp.int32)
    batch = Batch(
        *(jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding) for dtype in dtypes)
    )
    step = step_lib.step_of_run(config, network)
    uses_cudnn = network.compute.attention == 'cudnn'
    hopper = attention_cudnn.assume_hopper() if uses_cudnn else contextlib.nullcontext()
    # Tracing makes constants, which need real devices: hence only the abstract mesh here.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), hopper:
        traced = step.trace(state, batch)
    with jax.set_mesh(mesh):
        return traced.lower(), state, batch


def make_plan(config: RunConfig, topology: Topology, devices: Sequence) -> dict[str, Any]:
    """Compiles a run's step for devices that you do not have and returns what it needs.

    `docs/scaling.md` describes the values. Raises UserError for whatever `train` would refuse
    before it reads weights.
    """
    config_lib.validate(config)
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    max_segments = max(1, config.data.sequence_length // MIN_SEGMENT_TOKENS)
    network = planned_network(config).for_mesh(mesh)
    network = dataclasses.replace(network, max_segments=max_segments)
    lowered, state, batch = lower_step(config, network, mesh)
    arguments = {
        'trainable': _local_bytes(state.trainable),
        'frozen': _local_bytes(state.frozen),
        'moments': _local_bytes(state.opt_state),
        'batch': _local_bytes(batch),
    }
    plan = {
        'topology': topology.text,
        'compiler': topology.compiler_versions(),
        'devices': len(devices),
        'mesh': {axis: int(size) for axis, size in mesh.shape.items()},
        'global_batch_rows': config.data.global_batch_rows,
        'sequence_length': config.data.sequence_length,
        'accumulation': config.train.gradient_accumulation_steps,
        'remat': config.train.remat,
        'parameters': _count_parameters(state) | _parameter_bytes(network),
        'flops': formula_flops(config, network, state, len(devices)),
    }
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        compiled, message = None, str(error)
    plan['compile_seconds'] = round(time.perf_counter() - wall_start, 1)
    plan['compile_cpu_seconds'] = round(time.process_time() - cpu_start, 1)
    if compiled is None:
        plan['memory'] = {'arguments': arguments, **parse_out_of_memory(message, arguments)}
        plan['verdict'] = _verdict(topology, plan['memory'])
        return plan
    plan['memory'] = _memory(compiled.memory_analysis(), arguments)
    plan['verdict'] = _verdict(topology, plan['memory'])
    link_domains = [topology.link_domain(device) for device in mesh.devices.ravel()]
    _add_program(plan, hlo.parse_hlo(compiled.as_text()), network, topology, link_domains)
    return plan


def _add_program(
    plan: dict[str, Any],
    module: hlo.Module,
    network: Network,
    topology: Topology,
    link_domains: Sequence[int],
) -> None:
    """Adds to a plan what the text of the compiled program says, and the roofline estimate."""
    found, unknown_loops = collectives.find_collectives(module, link_domains)
    plan['collectives'] = collectives.summarize_collectives(found, plan['mesh'])
    plan['loops_of_unknown_length'] = unknown_loops
    plan['attention'] = _attention(network, module)
    plan['flops']['compiled'] = flops.compiled_flops(module)
    if topology.chip is not None and network.compute.dtype == 'bfloat16':
        plan['estimate'] = roofline.estimate(
            plan, network, topology.chip, link_domains=link_domains, collectives=found
        )


def _count_parameters(state: TrainState) -> dict[str, Any]:
    def count(tree) -> int:
        return sum(quantization.num_values(path, leaf) for path, leaf in flatten(tree).items())

    total, trained = count(state.params), count(state.trainable)
    return {'total': total, 'trainable': trained, 'trainable_share': trained / total}


def _parameter_bytes(network: Network) -> dict[str, Any]:
    """Returns the bytes of all parameters and, of a quantized base, those in bfloat16."""

    def count(network: Network) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(network.abstract()))

    base_dtype, sizes = network.compute.base_dtype, {'bytes': count(network)}
    if network.compute.quantized:
        sizes['bytes_in_bfloat16'] = count(network.with_compute(base_dtype='bfloat16'))
    return {'base_dtype': base_dtype, **sizes}


def formula_flops(
    config: RunConfig, network: Network, state: TrainState, num_devices: int
) -> dict[str, float]:
    """Returns the FLOPs by formula: per token, and per step of one device."""
    arch, tokens = network.arch, config.data.sequence_length
    trainable, frozen = (
        flops.num_matmul_params(arch, params) for params in (state.trainable, state.frozen)
    )
    per_token = flops.model_flops(arch, trainable=trainable, frozen=frozen, tokens=tokens)
    return {
        'per_token': per_token,
        'attention_per_token': 3 * flops.attention_flops(arch, tokens),
        'per_device': per_token * tokens * config.data.global_batch_rows / num_devices,
    }


def _local_bytes(tree) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _memory(stats, arguments: dict[str, int]) -> dict[str, Any]:
    """Returns the bytes of a device by kind; `padding` is what its layout adds to the arguments."""
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    padding = stats.argument_size_in_bytes - sum(arguments.values())
    temporaries, code = stats.temp_size_in_bytes, stats.generated_code_size_in_bytes
    return {
        'arguments': arguments | {'padding': padding},
        'outputs': outputs,
        'temporaries': temporaries,
        'code': code,
        'total': stats.argument_size_in_bytes + outputs + temporaries + code,
        'host': stats.host_temp_size_in_bytes + stats.host_argument_size_in_bytes,
    }


def parse_out_of_memory(message: str, arguments: dict[str, int]) -> dict[str, Any]:
    """Parses the message of a compiler that ran out of memory.

    Returns the total that the program needs and the capacity of a device, in bytes; both are None
    for a message of another form.
    """
    message = ' '.join(message.split())
    if match := _USED.search(message):
        total, capacity = map(_parse_bytes, match.groups())
        return {'total': total, 'capacity': capacity, 'message': match[0]}
    if match := _TEMPORARIES.search(message):
        temporaries, capacity = map(_parse_bytes, match.groups())
        return {
            'temporaries': temporaries,
            'total': temporaries + sum(arguments.values()),
            'capacity': capacity,
            'message': match[0],
        }
    return {'total': None, 'capacity': None, 'message': message[:300]}


def _parse_bytes(text: str) -> int:
    number, unit = _SIZE.match(text).groups()
    return int(float(number) * 1024 ** ' KMGT'.index(unit or ' '))


def _verdict(topology: Topology, memory: dict[str, Any]) -> dict[str, Any]:
    """Returns whether the program fits and who says so; adds the capacity of a device to `memory`.

    `fits` is None for simulated devices, which have no memory of their own.
    """
    if 'message' in memory:
        return {'fits': False, 'by': 'the compiler'}
    if topology.chip is None:
        return {'fits': None, 'by': 'simulated devices have no memory of their own'}
    if topology.platform == 'tpu':
        memory['capacity'] = topology.chip.memory
        return {'fits': True, 'by': 'the compiler'}
    memory['capacity'] = int(env.GPU_MEMORY_FRACTION * topology.chip.memory)
    return {'fits': memory['total'] <= memory['capacity'], 'by': 'an estimate'}


def _attention(network: Network, module: hlo.Module) -> dict[str, Any]:
    """Returns the attention backend, and what the program has of it.

    These are calls of TPU kernels per step, and whether it has dense matmuls of scores, which XLA
    names after their einsum.
    """
    counts, _ = module.run_counts()
    executed = [
        (counts[name], instruction)
        for name, computation in module.computations.items()
        for instruction in computation.values()
        if counts[name]
    ]
    return {
        'backend': network.compute.attention,
        'kernel_calls': sum(
            runs for runs, instruction in executed if 'tpu_custom_call' in instruction.attributes
        ),
        'dense_scores': any(
            f'{SCORES_EINSUM}/' in instruction.attributes for _, instruction in executed
        ),
    }

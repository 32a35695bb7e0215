"""Tests that twenty AdamW steps follow torch, with every parameter and with adapters alone."""

import re

import numpy as np
import pytest

from bsft_jax import config as config_lib
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.config import MODES, OptimizerConfig
from bsft_jax.data.examples import Batch
from bsft_jax.hub import configs, files, loading, pretrained
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.pytrees import flatten
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import state as state_lib
from bsft_jax.training import step as step_lib
from tests.tiny import NO_TORCH, SHAPES, save_torch

torch = pytest.importorskip('torch', reason=NO_TORCH)
FAMILIES = [
    'llama 3 rope',
    'mistral window',
    'qwen2 tied',
    'qwen3 untied',
    'gemma2 remainder',
    'gemma3 remainder',
]
STEPS = 20
ADAMW = OptimizerConfig(learning_rate=1e-4, warmup_steps=4, schedule_steps=STEPS, weight_decay=0.1)


def batches():
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, 96, (4, 33)).astype(np.int32)
    weights_BT = (rng.random((4, 32)) < 0.5).astype(np.float32)
    return [(tokens_BT, weights_BT)] * STEPS


def our_curve(network, params, mode):
    mesh = mesh_lib.single_device_mesh()
    optimizer = optimizer_lib.make_optimizer(ADAMW)
    state = state_lib.create(params, MODES[mode], optimizer, mesh)
    run = step_lib.make_train_step(network, optimizer, gradient_accumulation_steps=1)
    losses = []
    for tokens_BT, weights_BT in batches():
        positions_BT = np.broadcast_to(np.arange(32, dtype=np.int32), (4, 32))
        batch = Batch(
            tokens_BT=tokens_BT[:, :-1],
            targets_BT=tokens_BT[:, 1:],
            weights_BT=weights_BT,
            segment_ids_BT=np.ones((4, 32), np.int32),
            positions_BT=positions_BT,
        )
        state, metrics = run(state, batch)
        losses.append(float(metrics['loss']))
    return losses


def torch_curve(model):
    decayed, other = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (other if re.search(r'norm|bias|lora', name) else decayed).append(parameter)
    groups = [
        {'params': decayed, 'weight_decay': ADAMW.weight_decay},
        {'params': other, 'weight_decay': 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(ADAMW.b1, ADAMW.b2), eps=ADAMW.eps)
    schedule, losses = optimizer_lib.schedule(ADAMW), []
    for number, (tokens_BT, weights_BT) in enumerate(batches()):
        tokens, weights = torch.tensor(tokens_BT).long(), torch.tensor(weights_BT)
        logits = model(tokens[:, :-1]).logits
        losses_BT = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), tokens[:, 1:], reduction='none'
        )
        loss = (losses_BT * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*decayed, *other], ADAMW.clip_norm)
        for group in optimizer.param_groups:
            group['lr'] = float(schedule(number))
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize('shape', FAMILIES)
def test_full_training_follows_torch(shape, tmp_path):
    model = save_torch(tmp_path, **SHAPES[shape]).train()
    network = Network(configs.architecture_of(files.read_config(tmp_path)))
    params = loading.load_params(tmp_path, network, mesh_lib.single_device_mesh())
    curve = our_curve(network, params, 'full')
    np.testing.assert_allclose(curve, torch_curve(model), atol=1e-4)
    assert curve[-1] < curve[0]


@pytest.mark.parametrize('shape', FAMILIES)
def test_adapters_follow_peft(shape, tmp_path):
    from peft import LoraConfig, get_peft_model

    lora = config_lib.LoraConfig(4, 8.0)
    model = save_torch(tmp_path, **SHAPES[shape])
    maps = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=maps)).train()
    arch = configs.architecture_of(files.read_config(tmp_path))
    network = Network(arch, compute=config_lib.ComputeConfig(lora=lora))
    mesh = mesh_lib.single_device_mesh()
    spec = pretrained.PretrainedSpec(tmp_path, {}, None, BehaviorSet(), frozenset(), network)
    params = loading.load_params(tmp_path, network, mesh)
    params = pretrained.with_adapters(spec, params, mesh, seed=0)
    parameters = dict(model.named_parameters())
    modules = {'attention': 'self_attn', 'mlp': 'mlp'}
    for path, stack in flatten(params).items():
        if '/lora/' not in path:
            continue
        stacked, part, name, _, letter = path.split('/')
        first = 0 if stacked == 'layers' else network.arch.stacked
        for layer, matrix in enumerate(stack, start=first):
            module = f'base_model.model.model.layers.{layer}.{modules[part]}.{name}_proj'
            with torch.no_grad():
                parameter = parameters[f'{module}.lora_{letter.upper()}.default.weight']
                parameter.copy_(torch.tensor(np.array(matrix.T)))
    curve = our_curve(network, params, 'lora')
    np.testing.assert_allclose(curve, torch_curve(model), atol=1e-4)
    assert np.mean(curve[-5:]) < np.mean(curve[:5])

"""FLOPs of a step: by formula, which is the basis of MFU, and as the compiled program has them."""

from __future__ import annotations

import json
import math
import re

import numpy as np

from bsft_jax.models import quantization
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.network import Params
from bsft_jax.planning.hlo import Computation, Instruction, Module
from bsft_jax.pytrees import flatten

_GEMM = re.compile(r'custom_call_target="__(?:cublas|cudnn|onednn)[^"]*(?:gemm|matmul)[^"]*"')


def attention_flops(arch: Architecture, tokens: int) -> float:
    """Returns the forward FLOPs per token of attention's two matmuls, over all layers.

    Rows hold one segment of `tokens` tokens. A query attends to half of the row on average, or to
    its window.
    """
    keys = 0.0
    for layer in range(arch.num_layers):
        window = min(arch.kinds[layer % arch.period].window or tokens, tokens)
        keys += (window * (window + 1) / 2 + (tokens - window) * window) / tokens
    return 4 * arch.num_heads * arch.head_dim * keys


def num_matmul_params(arch: Architecture, params: Params) -> int:
    """Counts the parameters (or shapes) that take part in matmuls.

    Biases, scales and tables that are only looked up do not.
    """
    looked_up = '' if arch.tied else r'|embed/table$|behavior/input$'
    pattern = rf'(bias|scale)${looked_up}'
    return sum(
        quantization.num_values(path, leaf)
        for path, leaf in flatten(params).items()
        if not re.search(pattern, path)
    )


def model_flops(arch: Architecture, *, trainable: int, frozen: int, tokens: int) -> float:
    """Returns the FLOPs per token of a training step, without recomputation.

    These are 6 per trainable and 4 per frozen parameter (Kaplan et al., arXiv 2001.08361): 2 for
    the forward pass, 2 for the gradient of the inputs and 2 for that of the parameter itself. Only
    parameters of matmuls count. Attention is causal, and training costs 3 of its forward passes.

    Args:
      arch: the model's sizes.
      trainable: number of trainable parameters that take part in matmuls.
      frozen: number of frozen ones.
      tokens: tokens of a row.
    """
    return 6 * trainable + 4 * frozen + 3 * attention_flops(arch, tokens)


def compiled_flops(module: Module) -> float:
    """Returns the FLOPs of all matmuls that a device computes in a step, with recomputation.

    Matmuls inside kernels (a `custom-call` of a TPU or of cuDNN) are not included: the program's
    text does not describe them.
    """
    counts, _ = module.run_counts()
    return float(
        sum(
            counts[name] * _matmul_flops(instruction, computation)
            for name, computation in module.computations.items()
            if counts[name]
            for instruction in computation.values()
        )
    )


def _matmul_flops(instruction: Instruction, computation: Computation) -> int:
    """Returns the FLOPs of an instruction that is a matmul; 0 for any other."""
    if instruction.op == 'convolution':
        return _convolution_flops(instruction, computation)
    if instruction.op == 'dot':
        dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.attributes)[1]
    elif instruction.op == 'custom-call' and _GEMM.search(instruction.attributes):
        dims = _library_contracting_dims(instruction.attributes)
    else:
        return 0
    left = computation[instruction.operands[0]].arrays[0].shape
    contracted = math.prod(left[int(dim)] for dim in dims.split(',') if dim)
    return 2 * math.prod(instruction.arrays[0].shape) * contracted


def _library_contracting_dims(attributes: str) -> str:
    """Returns the contracting dimensions of the left operand of a library call, as in `1,2`."""
    match = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', attributes)
    return ','.join(map(str, json.loads(match[1])))


def _convolution_flops(instruction: Instruction, computation: Computation) -> int:
    """Returns the FLOPs of a convolution, the form that matmuls have in TPU programs.

    Each output sums over the input features and over those positions of the window that lie inside
    the input.
    """
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes)
    operands = [computation[name].arrays[0] for name in instruction.operands[:2]]
    left, right, out = (
        dict(zip(label, array.shape, strict=True))
        for label, array in zip(labels.groups(), [*operands, instruction.arrays[0]], strict=True)
    )
    spelled = re.search(r'window=\{([^}]*)\}', instruction.attributes)
    window = dict(re.findall(r'(\w+)=([\dx_-]+)', spelled[1] if spelled else ''))

    def option(name: str, index: int, default: int) -> int:
        """Returns the option of a spatial dimension; of a padding `LOW_HIGH` the low one."""
        if name not in window:
            return default
        return int(window[name].split('x')[index].split('_')[0])

    # Pairs of output and window positions that fall on an element of the input, not on padding or
    # on a hole of its dilation.
    pairs = 1
    for index, dim in enumerate(sorted(label for label in out if label.isdigit())):
        low, stride = option('pad', index, 0), option('stride', index, 1)
        window_dilation = option('rhs_dilate', index, 1)
        base_dilation = option('lhs_dilate', index, 1)
        at = np.arange(out[dim])[:, None] * stride + np.arange(right[dim]) * window_dilation - low
        inside = (at >= 0) & (at <= (left[dim] - 1) * base_dilation)
        pairs *= int(np.sum(inside & (at % base_dilation == 0)))
    return 2 * out['b'] * out['f'] * right['i'] * pairs

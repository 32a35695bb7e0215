"""FLOPs of a step: by formula, which is what MFU speaks of, and as the compiled program has them."""

from __future__ import annotations

import json
import math
import re

import numpy as np

from bsft_jax.models.architecture import Architecture
from bsft_jax.models.network import Params
from bsft_jax.planning.hlo import Computation, Instruction, Module
from bsft_jax.trees import flatten

_GEMM = re.compile(r'custom_call_target="__(?:cublas|cudnn|onednn)[^"]*(?:gemm|matmul)[^"]*"')


def attention(arch: Architecture, tokens: int) -> float:
    """Forward FLOPs a token of attention's two products, in rows of one document of so many tokens, all layers.

    A query sees half of the row on average, or its window.
    """
    keys = 0.0
    for layer in range(arch.layers):
        window = min(arch.kinds[layer % arch.period].window or tokens, tokens)
        keys += (window * (window + 1) / 2 + (tokens - window) * window) / tokens
    return 4 * arch.heads * arch.head_width * keys


def multiplying(arch: Architecture, params: Params) -> int:
    """How many of these parameters (or shapes) multiply: no biases, no scales, no table that is only looked up."""
    looked_up = '' if arch.tied else r'|embed/table$|behavior/input$'
    pattern = rf'(bias|scale|kernel_scale)${looked_up}'
    return sum(
        math.prod(leaf.shape) for path, leaf in flatten(params).items() if not re.search(pattern, path)
    )


def model(arch: Architecture, *, trainable: int, frozen: int, tokens: int) -> float:
    """FLOPs a token of a training step, without what is computed again.

    6 a trainable parameter and 4 a frozen one (Kaplan et al., arXiv 2001.08361: 2 forward, 2 for the gradient of
    what goes in, 2 for the parameter's own), where only parameters that multiply count: the table of an untied
    model is looked up. Attention is causal and trains as 3 forward passes.

    Args:
      trainable, frozen: numbers of parameters that multiply.
      tokens: of a row.
    """
    return 6 * trainable + 4 * frozen + 3 * attention(arch, tokens)


def compiled(module: Module) -> float:
    """FLOPs of all products that a device computes in a step, what is computed again included.

    Products inside kernels (`custom-call` of a TPU or cuDNN) are not in it: their text does not say what they do.
    """
    runs, _ = module.runs()
    return float(
        sum(
            runs[name] * _product(instruction, computation)
            for name, computation in module.computations.items()
            if runs[name]
            for instruction in computation.values()
        )
    )


def _product(instruction: Instruction, computation: Computation) -> int:
    if instruction.op == 'convolution':
        return _convolution(instruction, computation)
    if instruction.op == 'dot':
        dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.attributes)[1]
    elif instruction.op == 'custom-call' and _GEMM.search(instruction.attributes):
        dims = _contracted(instruction.attributes)
    else:
        return 0
    left = computation[instruction.operands[0]].arrays[0].shape
    contracted = math.prod(left[int(dim)] for dim in dims.split(',') if dim)
    return 2 * math.prod(instruction.arrays[0].shape) * contracted


def _contracted(attributes: str) -> str:
    """The contracted dimensions of the left operand of a library's product."""
    found = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', attributes)
    return ','.join(map(str, json.loads(found[1])))


def _convolution(instruction: Instruction, computation: Computation) -> int:
    """A TPU's product: each output sums over the input features and the places of its window inside the input."""
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes)
    left, right, out = (
        dict(zip(label, array.shape, strict=True))
        for label, array in zip(
            labels.groups(),
            (
                computation[instruction.operands[0]].arrays[0],
                computation[instruction.operands[1]].arrays[0],
                instruction.arrays[0],
            ),
            strict=True,
        )
    )
    spelled = re.search(r'window=\{([^}]*)\}', instruction.attributes)
    window = dict(re.findall(r'(\w+)=([\dx_-]+)', spelled[1] if spelled else ''))
    places = 1
    for number, dim in enumerate(sorted(label for label in out if label.isdigit())):
        low, stride, spread, holes = (
            int(window[name].split('x')[number].split('_')[0]) if name in window else default
            for name, default in (('pad', 0), ('stride', 1), ('rhs_dilate', 1), ('lhs_dilate', 1))
        )
        at = np.arange(out[dim])[:, None] * stride + np.arange(right[dim]) * spread - low
        places *= int(np.sum((at >= 0) & (at <= (left[dim] - 1) * holes) & (at % holes == 0)))
    return 2 * out['b'] * out['f'] * right['i'] * places

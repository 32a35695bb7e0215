"""Plans as text for the terminal."""

from __future__ import annotations

from typing import Any

from bsft_jax.report.table import align_columns


def format_plan(plan: dict[str, Any]) -> str:
    """Formats a plan of `compile_plan.make_plan` or `search.search_plans` as lines and tables."""
    lines = [*_summary(plan), '', *_memory(plan['memory'])]
    if 'collectives' in plan:
        lines += ['', *_collectives(plan['collectives'])]
        if loops := plan['loops_of_unknown_length']:
            lines.append(f'loops of unknown length, counted once: {", ".join(loops)}')
    if 'estimate' in plan:
        lines += ['', *_estimate(plan['estimate'])]
    if 'tried' in plan:
        lines += ['', *_tried(plan['tried'])]
    return '\n'.join([*lines, '', _verdict(plan)])


def _summary(plan: dict[str, Any]) -> list[str]:
    """Returns lines of the devices, the step, the parameters, the FLOPs and the compilation."""
    axes = ' × '.join(f'{axis}={size}' for axis, size in plan['mesh'].items() if size > 1)
    parameters, flops = plan['parameters'], plan['flops']
    attention_share = flops['attention_per_token'] / flops['per_token']
    lines = [
        f'{plan["topology"]}: {plan["devices"]} devices, {axes or "one device"}',
        f'step: {plan["global_batch_rows"]} rows of {plan["sequence_length"]} tokens, '
        f'accumulation {plan["accumulation"]}, remat {plan["remat"]}',
        f'parameters: {parameters["total"]:,}, {parameters["trainable_share"]:.2%} trainable',
        *_saving(parameters),
        f'FLOPs: {flops["per_token"]:.3e} per token by formula ({attention_share:.1%} causal '
        f'attention), {flops["per_device"]:.3e} per device and step',
    ]
    if 'compiled' in flops:
        ratio = flops['compiled'] / flops['per_device']
        lines.append(
            f'       {flops["compiled"]:.3e} per device in matmuls of the program '
            f'({ratio:.2f} of the formula)'
        )
    if attention := plan.get('attention'):
        dense = 'dense' if attention['dense_scores'] else 'no dense'
        lines.append(
            f'attention: {attention["backend"]}; {attention["kernel_calls"]} kernel calls per '
            f'step, {dense} matmuls of scores'
        )
    lines.append(
        f'compiled in {plan["compile_seconds"]} s ({plan["compile_cpu_seconds"]} s of CPU time)'
    )
    return lines


def _saving(parameters: dict[str, Any]) -> list[str]:
    """Returns the line of the bytes that a quantized base saves, if there is one."""
    if 'bytes_in_bfloat16' not in parameters:
        return []
    size, plain = parameters['bytes'], parameters['bytes_in_bfloat16']
    unit, scale = _unit(plain)
    return [
        f'bytes of the parameters: {size / scale:.3f} {unit} with the base in '
        f'{parameters["base_dtype"]}, {plain / scale:.3f} {unit} in bfloat16 '
        f'({1 - size / plain:.0%} saved)'
    ]


def _memory(memory: dict[str, Any]) -> list[str]:
    sizes = {f'arguments: {name}': size for name, size in memory['arguments'].items()}
    sizes['outputs in buffers of their own'] = memory.get('outputs')
    sizes |= {
        name: memory.get(name) for name in ('temporaries', 'code', 'total', 'capacity', 'host')
    }
    unit, scale = _unit(memory['total'] or 0)
    rows = [[name, f'{size / scale:.3f}'] for name, size in sizes.items() if size is not None]
    return align_columns([['memory per device', unit], *rows], left=1)


def _collectives(collectives: list[dict[str, Any]]) -> list[str]:
    unit, scale = _unit(max((row['bytes'] for row in collectives), default=0))
    rows = [
        [row['kind'], row['axes'], f'{row["count"]:,}', f'{row["bytes"] / scale:.3f}']
        for row in collectives
    ]
    header = ['collective', 'axes', 'per step', f'{unit} received per device']
    return align_columns([header, *rows])


def _estimate(estimate: dict[str, Any]) -> list[str]:
    seconds = ', '.join(f'{name} {value:.3g} s' for name, value in estimate['seconds'].items())
    rows = [['estimate', 's per step', 'tokens/s', 'per device', 'MFU']]
    for name, label in (('lower', 'largest (all overlap)'), ('upper', 'sum (nothing overlaps)')):
        bound = estimate[name]
        rows.append(
            [
                label,
                f'{bound["step_seconds"]:.3g}',
                f'{bound["tokens_per_second"]:,.0f}',
                f'{bound["tokens_per_second_per_device"]:,.0f}',
                f'{bound["mfu"]:.1%}',
            ]
        )
    return [
        f'roofline of {estimate["chip"]}: {seconds}',
        *align_columns(rows, left=1),
        f'peaks: {estimate["source"]}',
    ]


def _tried(tried: list[dict[str, Any]]) -> list[str]:
    rows = [['remat', 'accumulation', 'fits', 's per step, nothing overlaps']]
    for attempt in tried:
        seconds = attempt['seconds']
        rows.append(
            [
                attempt['remat'],
                str(attempt['accumulation']),
                'yes' if attempt['fits'] else 'no',
                '-' if seconds is None else f'{seconds:.3g}',
            ]
        )
    return align_columns(rows, left=1)


def _verdict(plan: dict[str, Any]) -> str:
    verdict = plan['verdict']
    word = {True: 'fits', False: 'does not fit', None: 'not judged'}[verdict['fits']]
    return f'verdict: {word} ({verdict["by"]})'


def _unit(largest: float) -> tuple[str, int]:
    return ('GiB', 2**30) if largest >= 2**30 else ('MiB', 2**20)

"""A plan as text."""

from __future__ import annotations

from typing import Any

from bsft_jax.report.table import aligned


def text(plan: dict[str, Any]) -> str:
    """Lines and tables of a plan of `account.plan` or `advice.search`."""
    parts = [_head(plan), *_memory(plan['memory'])]
    if 'collectives' in plan:
        parts += ['', *_collectives(plan['collectives'])]
        if plan['loops_of_unknown_length']:
            parts.append(f'loops of unknown length count once: {", ".join(plan["loops_of_unknown_length"])}')
    if 'estimate' in plan:
        parts += ['', *_estimate(plan['estimate'])]
    if 'tried' in plan:
        parts += ['', *_tried(plan['tried'])]
    return '\n'.join([*parts, '', _verdict(plan)])


def _head(plan: dict[str, Any]) -> str:
    mesh = ' × '.join(f'{axis}={size}' for axis, size in plan['mesh'].items() if size > 1) or 'one device'
    parameters, flops = plan['parameters'], plan['flops']
    lines = [
        f'{plan["topology"]}: {plan["devices"]} devices, {mesh}',
        f'step: {plan["rows_per_step"]} rows of {plan["sequence_length"]} tokens, '
        f'accumulation {plan["accumulation"]}, remat {plan["remat"]}',
        f'parameters: {parameters["total"]:,}, {parameters["trainable_share"]:.2%} train',
        f'FLOPs: {flops["per_token"]:.3e} a token by formula ({flops["attention_per_token"] / flops["per_token"]:.1%} '
        f'causal attention), {flops["per_device"]:.3e} a device and step',
    ]
    if 'compiled' in flops:
        share = flops['compiled'] / flops['per_device']
        lines.append(
            f'       {flops["compiled"]:.3e} a device in products of the program ({share:.2f} of the formula)'
        )
    if attention := plan.get('attention'):
        lines.append(
            f'attention: {attention["back_end"]}; {attention["kernel_calls"]} kernel calls a step, '
            f'{"dense" if attention["dense_scores"] else "no dense"} products of scores'
        )
    lines.append(
        f'compiled in {plan["compile_seconds"]} s ({plan["compile_cpu_seconds"]} s of processor time)'
    )
    return '\n'.join(lines) + '\n'


def _memory(memory: dict[str, Any]) -> list[str]:
    sizes = {f'arguments: {name}': size for name, size in memory['arguments'].items()}
    sizes['outputs not in place of arguments'] = memory.get('outputs')
    sizes |= {name: memory.get(name) for name in ('temporaries', 'code', 'total', 'capacity', 'host')}
    unit, scale = _unit(memory['total'] or 0)
    rows = [[name, f'{size / scale:.3f}'] for name, size in sizes.items() if size is not None]
    return aligned([['memory of a device', unit], *rows], left=1)


def _collectives(collectives: list[dict[str, Any]]) -> list[str]:
    unit, scale = _unit(max((one['bytes'] for one in collectives), default=0))
    rows = [['collective', 'axes', 'a step', f'{unit} received a device']]
    rows += [
        [one['kind'], one['axes'], f'{one["count"]:,}', f'{one["bytes"] / scale:.3f}'] for one in collectives
    ]
    return aligned(rows)


def _estimate(estimate: dict[str, Any]) -> list[str]:
    seconds = ', '.join(f'{name} {value:.3g} s' for name, value in estimate['seconds'].items())
    rows = [['estimate', 's a step', 'tokens/s', 'a device', 'MFU']]
    for name, label in (('lower', 'largest (all overlap)'), ('upper', 'sum (nothing overlaps)')):
        one = estimate[name]
        rows.append(
            [
                label,
                f'{one["step_seconds"]:.3g}',
                f'{one["tokens_per_second"]:,.0f}',
                f'{one["tokens_per_second_per_device"]:,.0f}',
                f'{one["mfu"]:.1%}',
            ]
        )
    return [
        f'roofline of {estimate["chip"]}: {seconds}',
        *aligned(rows, left=1),
        f'peaks: {estimate["source"]}',
    ]


def _tried(tried: list[dict[str, Any]]) -> list[str]:
    rows = [['remat', 'accumulation', 'fits', 's a step, nothing overlaps']]
    for one in tried:
        seconds = one['seconds']
        fits = 'yes' if one['fits'] else 'no'
        rows.append(
            [one['remat'], str(one['accumulation']), fits, '-' if seconds is None else f'{seconds:.3g}']
        )
    return aligned(rows, left=1)


def _verdict(plan: dict[str, Any]) -> str:
    verdict = plan['verdict']
    word = {True: 'fits', False: 'does not fit', None: 'not judged'}[verdict['fits']]
    return f'verdict: {word} ({verdict["by"]})'


def _unit(largest: float) -> tuple[str, int]:
    return ('GiB', 2**30) if largest >= 2**30 else ('MiB', 2**20)

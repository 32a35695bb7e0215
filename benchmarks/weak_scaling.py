"""Weak scaling by compilation: what a device computes and receives on 8 to 256 devices, at equal tokens a device.

    python -m benchmarks.weak_scaling --kind=h100
    python -m benchmarks.weak_scaling --kind=v5e --config=configs/qwen2_5_7b.py:lora

Every size is a plan of its own (`python -m bsft_jax.plan`), in a process of its own.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

from benchmarks import output
from bsft_jax import cli
from bsft_jax.report import svg
from bsft_jax.report.table import aligned

_KIND = flags.DEFINE_enum(
    'kind', None, ['v5e', 'v6e', 'v5p', 'h100', 'cpu'], 'What the devices are.', required=True
)
_CONFIG = flags.DEFINE_string('config', 'configs/qwen2_5_7b.py:full', 'Config of the run that grows.')
_ROWS = flags.DEFINE_integer('rows', 1, 'Rows of a device.', lower_bound=1)

SIZES = (8, 16, 32, 64, 128, 256)
SHAPES = {
    **dict.fromkeys(('v5e', 'v6e'), ('2x4', '4x4', '4x8', '8x8', '8x16', '16x16')),
    'v5p': ('2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8'),
    'h100': tuple(f'{size // 8}x8' for size in SIZES),
    'cpu': tuple(map(str, SIZES)),
}
RESULTS = 'benchmarks/results'
_COLOURS = '--ink:#1b1f24;--muted:#59626c;--grid:#dde1e6;--c0:#0072b2;--c1:#d55e00;--c2:#009e73'


def plan(topology: str, devices: int) -> dict:
    """The plan of one size."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'plan.json'
        command = [
            sys.executable, '-m', 'bsft_jax.plan', f'--config={_CONFIG.value}', f'--topology={topology}',
            f'--config.data.rows_per_step={devices * _ROWS.value}', f'--output={path}',
        ]  # fmt: skip
        done = subprocess.run(command, cwd=output.ROOT, capture_output=True, text=True)
        if not path.exists():
            raise RuntimeError(f'{" ".join(command)}\n{done.stderr}')
        return json.loads(path.read_text())


def point(topology: str, devices: int) -> dict:
    """What a device of one size computes, receives along `fsdp`, and holds."""
    found = plan(topology, devices)
    along = [row for row in found['collectives'] if row['axes'] == 'fsdp']
    return {
        'topology': topology,
        'devices': devices,
        'flops': found['flops']['compiled'],
        'received': sum(row['bytes'] for row in along),
        'payload': sum(row['payload'] for row in along),
        'memory': found['memory']['total'],
        'fits': found['verdict']['fits'],
        'compile_cpu_seconds': found['compile_cpu_seconds'],
        'collectives': found['collectives'],
    }


def table(points: list[dict]) -> str:
    """A line a size; what is `over first` is divided by the first line's. Payload: whole arrays, not (n−1)/n of them."""
    head = [
        'topology',
        'devices',
        'TFLOP',
        'over first',
        'GiB received',
        'over first',
        'payload over first',
        'GiB held',
    ]
    rows, first = [head], points[0]
    for one in points:
        rows.append(
            [
                one['topology'],
                str(one['devices']),
                f'{one["flops"] / 1e12:.2f}',
                f'{one["flops"] / first["flops"]:.3f}',
                f'{one["received"] / 2**30:.2f}',
                f'{one["received"] / first["received"]:.3f}',
                f'{one["payload"] / first["payload"]:.3f}',
                f'{one["memory"] / 2**30:.2f}',
            ]
        )
    return '\n'.join(aligned(rows, left=1))


def picture(points: list[dict]) -> str:
    """FLOPs, bytes received and memory of a device over the number of devices, each over its first as in the table."""
    lines, names = [], {'flops': 'FLOPs', 'received': 'bytes received', 'memory': 'memory held'}
    first = points[0]
    for colour, name in enumerate(names):
        lines.append(svg.Line(tuple((one['devices'], one[name] / first[name]) for one in points), colour))
    chart = svg.curves(
        f'Weak scaling by compilation: one {first["topology"].partition(":")[0]} device',
        'devices',
        f'over first: {first["devices"]} devices = 1',
        lines,
        doubling=[one['devices'] for one in points],
    )
    keys = []
    for colour, (label, x) in enumerate(zip(names.values(), (52, 132, 262), strict=True)):
        place = f'<svg x="{x}" y="214" width="30" height="9" '
        keys.append(svg.key(colour, line=True).replace('<svg ', place, 1))
        keys.append(f'<text x="{x + 35}" y="222">{label}</text>')
    style = f'<style>:root{{{_COLOURS}}}svg{{background:#fff}}{svg.STYLE}</style>'
    chart = chart.replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" width="760" ', 1)
    return chart.replace('>', f'>{style}', 1).replace('</svg>', f'{"".join(keys)}</svg>')


def main(argv) -> None:
    del argv
    points = []
    for shape, devices in zip(SHAPES[_KIND.value], SIZES, strict=True):
        points.append(point(f'{_KIND.value}:{shape}', devices))
        print(table(points[-1:]), file=sys.stderr)
    print(table(points))
    command = f'python -m benchmarks.weak_scaling --kind={_KIND.value} --config={_CONFIG.value}'
    name = f'{RESULTS}/weak_scaling_{_KIND.value}_{_CONFIG.value.rpartition(":")[2]}'
    (output.ROOT / f'{name}.svg').write_text(picture(points) + '\n', encoding='utf-8')
    output.write(
        f'{name}.json',
        command,
        ('jax', 'jaxlib', 'flax'),
        config=_CONFIG.value,
        rows=_ROWS.value,
        points=points,
    )


if __name__ == '__main__':
    cli.run(main)

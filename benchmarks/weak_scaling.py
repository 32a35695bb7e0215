"""Plans weak scaling: work and traffic of a device on 8 to 256 devices, at equal tokens a device.

    python -m benchmarks.weak_scaling --kind=h100
    python -m benchmarks.weak_scaling --kind=v5e --config=configs/qwen2_5_7b.py:lora

Each number of devices is a plan of its own (`python -m bsft_jax.plan`), in a process of its own.
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
from bsft_jax.report.table import align_columns

_KIND = flags.DEFINE_enum(
    'kind', None, ['v5e', 'v6e', 'v5p', 'h100', 'cpu'], 'Kind of the devices.', required=True
)
_CONFIG = flags.DEFINE_string('config', 'configs/qwen2_5_7b.py:full', 'Config of the run.')
_ROWS = flags.DEFINE_integer('rows', 1, 'Rows per device.', lower_bound=1)

SIZES = (8, 16, 32, 64, 128, 256)
SHAPES = {
    **dict.fromkeys(('v5e', 'v6e'), ('2x4', '4x4', '4x8', '8x8', '8x16', '16x16')),
    'v5p': ('2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8'),
    'h100': tuple(f'{size // 8}x8' for size in SIZES),
    'cpu': tuple(map(str, SIZES)),
}
RESULTS = 'benchmarks/results'
_COLOURS = '--ink:#1b1f24;--muted:#59626c;--grid:#dde1e6;--c0:#0072b2;--c1:#d55e00;--c2:#009e73'


def run_plan(topology: str, devices: int) -> dict:
    """Returns the plan for a topology."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'plan.json'
        command = [
            sys.executable,
            '-m',
            'bsft_jax.plan',
            f'--config={_CONFIG.value}',
            f'--topology={topology}',
            f'--config.data.global_batch_rows={devices * _ROWS.value}',
            f'--output={path}',
        ]
        done = subprocess.run(command, cwd=output.ROOT, capture_output=True, text=True)
        if not path.exists():
            raise RuntimeError(f'{" ".join(command)}\n{done.stderr}')
        return json.loads(path.read_text())


def measure_point(topology: str, devices: int) -> dict:
    """Plans a topology and returns a device's FLOPs, bytes received along `fsdp` and memory."""
    plan = run_plan(topology, devices)
    along_fsdp = [row for row in plan['collectives'] if row['axes'] == 'fsdp']
    return {
        'topology': topology,
        'devices': devices,
        'flops': plan['flops']['compiled'],
        'received': sum(row['bytes'] for row in along_fsdp),
        'payload': sum(row['payload'] for row in along_fsdp),
        'memory': plan['memory']['total'],
        'fits': plan['verdict']['fits'],
        'compile_cpu_seconds': plan['compile_cpu_seconds'],
        'collectives': plan['collectives'],
    }


def format_points(points: list[dict]) -> str:
    """Returns a table with a line for each point.

    `over first` is the ratio to the first line. The payload counts complete arrays, not (n−1)/n of
    them.
    """
    header = [
        'topology',
        'devices',
        'TFLOP',
        'over first',
        'GiB received',
        'over first',
        'payload over first',
        'GiB held',
    ]
    rows, first = [header], points[0]
    for point in points:
        rows.append(
            [
                point['topology'],
                str(point['devices']),
                f'{point["flops"] / 1e12:.2f}',
                f'{point["flops"] / first["flops"]:.3f}',
                f'{point["received"] / 2**30:.2f}',
                f'{point["received"] / first["received"]:.3f}',
                f'{point["payload"] / first["payload"]:.3f}',
                f'{point["memory"] / 2**30:.2f}',
            ]
        )
    return '\n'.join(align_columns(rows, left=1))


def draw_points(points: list[dict]) -> str:
    """Returns an SVG chart of the FLOPs, bytes received and memory, each over its first value."""
    lines, names = [], {'flops': 'FLOPs', 'received': 'bytes received', 'memory': 'memory held'}
    first = points[0]
    for colour, name in enumerate(names):
        lines.append(
            svg.Line(
                tuple((point['devices'], point[name] / first[name]) for point in points), colour
            )
        )
    chart = svg.curves(
        f'Weak scaling by compilation: one {first["topology"].partition(":")[0]} device',
        'devices',
        f'over first: {first["devices"]} devices = 1',
        lines,
        doubling=[point['devices'] for point in points],
    )
    # The legend stands below the chart.
    keys = []
    for colour, (label, x) in enumerate(zip(names.values(), (52, 132, 262), strict=True)):
        position = f'<svg x="{x}" y="214" width="30" height="9" '
        keys.append(svg.key(colour, line=True).replace('<svg ', position, 1))
        keys.append(f'<text x="{x + 35}" y="222">{label}</text>')
    # A file of its own needs the namespace, a size, and the colours of a page.
    style = f'<style>:root{{{_COLOURS}}}svg{{background:#fff}}{svg.STYLE}</style>'
    chart = chart.replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" width="760" ', 1)
    return chart.replace('>', f'>{style}', 1).replace('</svg>', f'{"".join(keys)}</svg>')


def main(argv) -> None:
    """Plans all sizes, prints the table and writes the result and its chart."""
    del argv
    points = []
    for shape, devices in zip(SHAPES[_KIND.value], SIZES, strict=True):
        points.append(measure_point(f'{_KIND.value}:{shape}', devices))
        print(format_points(points[-1:]), file=sys.stderr)
    print(format_points(points))
    command = f'python -m benchmarks.weak_scaling --kind={_KIND.value} --config={_CONFIG.value}'
    name = f'{RESULTS}/weak_scaling_{_KIND.value}_{_CONFIG.value.rpartition(":")[2]}'
    (output.ROOT / f'{name}.svg').write_text(draw_points(points) + '\n', encoding='utf-8')
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

"""Pictures of pages as a reader first sees them: small, grey, and compared cell by cell.

`python -m tests.report.pictures` writes those that tests compare with; look at them before you
commit them. Other fonts break lines elsewhere, and change a picture as much as a lost paragraph
does. So pictures are compared where text has the width that it had, which `machine.json` says.
"""

import base64
import json
import pathlib
import struct
import tempfile
import zlib

from tests.report import fake

FOLDER = pathlib.Path(__file__).with_name('reference')
# Width → height of the window.
WINDOWS = {1280: 900, 390: 844}
SCHEMES = ('light', 'dark')
# Sides of the cells of the grid, in pixels.
CELL = 20
# Cells whose mean grey, 0 to 255, differs by more than this are different.
GREY = 5
# Share of the cells that may be different: a version of the browser draws controls its own way.
TOLERANCE = 0.01
_WIDTHS = """() => ['400 16px system-ui', '600 16px system-ui', '16px monospace'].map((font) => {
  const context = document.createElement('canvas').getContext('2d');
  context.font = font;
  return Math.round(context.measureText('Held to 5 % uninvited, 0.654–0.887').width);
})"""
_GREYS = """async ([url, columns, rows]) => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, image.width, image.height);
  const [sums, counts] = [0, 1].map(() => new Array(columns * rows).fill(0));
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const cell = Math.floor(y * rows / height) * columns + Math.floor(x * columns / width);
      const at = 4 * (y * width + x);
      sums[cell] += 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
      counts[cell] += 1;
    }
  }
  return sums.map((sum, n) => sum / counts[n]);
}"""


def write_pages(folder):
    """Writes the pages that have pictures and returns their paths by name."""
    of = fake.records(8)
    fake.write_study(folder / 'study', of)
    page = folder / 'study/points/behavior_sft-s0/eval/test-auto/report.html'
    return {'study': folder / 'study/report.html', 'evaluation': page}


def shoot(browser, path, width, scheme, *, style=''):
    """Returns the PNG of a page's first window, with more CSS at will."""
    context = browser.new_context(
        viewport={'width': width, 'height': WINDOWS[width]}, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(path.as_uri())
    if style:
        page.add_style_tag(content=style)
    picture = page.screenshot()
    context.close()
    return picture


def greys(browser, picture, columns, rows):
    """Returns the mean grey of each cell of a grid over a PNG, row by row."""
    page = browser.new_page()
    url = 'data:image/png;base64,' + base64.b64encode(picture).decode()
    found = page.evaluate(_GREYS, [url, columns, rows])
    page.close()
    return found


def text_widths(browser):
    """Returns how wide a text is in the fonts of the pages, in pixels."""
    page = browser.new_page()
    found = page.evaluate(_WIDTHS)
    page.close()
    return found


def difference(browser, picture, reference, width):
    """Returns the share of cells in which the PNG of a window and a shrunk one differ."""
    picture = shrink(browser, picture, width)
    columns, rows = width // CELL, WINDOWS[width] // CELL
    pairs = zip(*(greys(browser, p, columns, rows) for p in (picture, reference)), strict=True)
    return sum(abs(a - b) > GREY for a, b in pairs) / (columns * rows)


def shrink(browser, picture, width):
    """Returns a PNG of half the size in 64 greys."""
    columns, rows = width // 2, WINDOWS[width] // 2
    values = [round(grey / 255 * 63) * 255 // 63 for grey in greys(browser, picture, columns, rows)]
    lines = b''.join(b'\0' + bytes(values[columns * y : columns * (y + 1)]) for y in range(rows))
    header = struct.pack('>IIBBBBB', columns, rows, 8, 0, 0, 0, 0)
    chunks = (b'IHDR', header), (b'IDAT', zlib.compress(lines, 9)), (b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks
    )


def main():
    """Writes the pictures that tests compare with."""
    import shutil

    from playwright.sync_api import sync_playwright

    from tests.report.conftest import NAMES

    FOLDER.mkdir(exist_ok=True)
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as found, tempfile.TemporaryDirectory() as place:
        browser = found.chromium.launch(executable_path=path, args=['--no-sandbox'])
        (FOLDER / 'machine.json').write_text(
            json.dumps({'text_widths': text_widths(browser)}) + '\n'
        )
        for name, page in write_pages(pathlib.Path(place)).items():
            for width in WINDOWS:
                for scheme in SCHEMES:
                    picture = shrink(browser, shoot(browser, page, width, scheme), width)
                    (FOLDER / f'{name}-{width}-{scheme}.png').write_bytes(picture)


if __name__ == '__main__':
    main()

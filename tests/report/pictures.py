"""Pictures of pages as a reader first sees them: small, grey, and compared coarsely.

`python -m tests.report.pictures` writes those that tests compare with; look at them before you
commit them. Fonts differ between machines, and lines then break elsewhere: so what is compared is
how dark each cell of a coarse grid is, and a share of the cells may differ.
"""

import base64
import pathlib
import struct
import tempfile
import zlib

from tests.report import fake

FOLDER = pathlib.Path(__file__).with_name('reference')
# Width → height of the window.
WINDOWS = {1280: 900, 390: 844}
SCHEMES = ('light', 'dark')
# Columns of the grid; its cells are squares.
COLUMNS = {1280: 32, 390: 10}
# Cells whose grey, 0 to 255, differs by more than this are different.
GREY = 24
# Share of the cells that may be different. With serif, monospaced and narrower fonts it was 0.08 at
# most; with all text hidden it is far more.
TOLERANCE = 0.12

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


def difference(browser, picture, reference, width):
    """Returns the share of cells in which two PNGs of a window differ."""
    columns = COLUMNS[width]
    rows = round(columns * WINDOWS[width] / width)
    pairs = zip(*(greys(browser, p, columns, rows) for p in (picture, reference)), strict=True)
    return sum(abs(a - b) > GREY for a, b in pairs) / (columns * rows)


def shrink(browser, picture, width):
    """Returns a PNG of half the size in 16 greys."""
    columns, rows = width // 2 - width // 2 % 2, WINDOWS[width] // 2
    values = [min(round(grey / 17), 15) for grey in greys(browser, picture, columns, rows)]
    lines = [values[columns * y : columns * (y + 1)] for y in range(rows)]
    packed = b''.join(
        b'\0' + bytes(16 * a + b for a, b in zip(line[::2], line[1::2], strict=True))
        for line in lines
    )
    header = struct.pack('>IIBBBBB', columns, rows, 4, 0, 0, 0, 0)
    chunks = (b'IHDR', header), (b'IDAT', zlib.compress(packed, 9)), (b'IEND', b'')
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
        for name, page in write_pages(pathlib.Path(place)).items():
            for width in WINDOWS:
                for scheme in SCHEMES:
                    picture = shrink(browser, shoot(browser, page, width, scheme), width)
                    (FOLDER / f'{name}-{width}-{scheme}.png').write_bytes(picture)


if __name__ == '__main__':
    main()

"""Write the pixels of a JPEG file to standard output, row by row, in little memory. libvips runs in a separate process,
because its threads do not survive the fork that creates data-loading processes.

Run as ``python jpeg_rows.py FILE``. The rows are RGB, as stored. They stop where the file ends or is damaged.
"""

import sys

ROWS = 64
"""Number of rows written at a time."""


def main(path: str) -> int:
    """Write the rows; return 1 if some are missing."""
    import pyvips

    image = pyvips.Image.new_from_file(path, access="sequential", fail_on="truncated", autorotate=False)
    if image.bands == 1:
        image = image.bandjoin([image, image])
    elif image.bands != 3:
        image = image.colourspace("srgb")
    region = pyvips.Region.new(image)
    for top in range(0, image.height, ROWS):
        try:
            rows = region.fetch(0, top, image.width, min(ROWS, image.height - top))
        except pyvips.Error:
            return 1
        sys.stdout.buffer.write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

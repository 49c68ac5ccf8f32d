"""Writes the pixels of a JPEG file to the standard output, row by row, in little memory: libvips, in a process of its
own, because its threads do not survive a fork, as data-loading processes are made.

Run as ``python jpeg_rows.py FILE``. The rows are RGB, as stored. Where the file ends or is damaged, they end too.
"""

import sys

ROWS = 64
"""Rows that are written at once."""


def main(path: str) -> int:
    """Write the rows; 1 if some are missing."""
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

"""Parts of a photo equal the same parts of the whole photo, for every kind of file."""

import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.checks import InputError
from focaldet.data.verify import photo_problem
from focaldet.photos import images, regions
from focaldet.photos.depth import FULL
from focaldet.photos.images import IMAGE_SUFFIXES, read_header, read_photo
from focaldet.photos.limits import MAX_REGION_PIXELS
from focaldet.photos.regions import FILL, decode_to_the_end, open_regions

SIZE = (150, 101)


def picture(mode: str) -> Image.Image:
    """Colours that are all different, with edges."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    rgb = np.stack([x, y * 2, (x + y) % 200], axis=-1) + rng.integers(0, 40, (*SIZE[::-1], 3))
    image = Image.fromarray(rgb.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 13)
    if mode in ("RGBA", "LA"):
        alpha = Image.fromarray(((x * 3) % 256).astype(np.uint8))
        image.putalpha(alpha)
    return image.convert(mode)


FILES = [
    *[(f"{mode}.png", {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")],
    *[
        (f"{mode}-{compression or 'raw'}.tif", {"compression": compression} if compression else {})
        for mode, compression in product(
            ("RGB", "L", "P", "1", "RGBA", "CMYK", "I;16"), (None, "tiff_lzw", "tiff_deflate")
        )
    ],
    ("RGB-jpeg.tif", {"compression": "jpeg"}),
    ("RGB-packbits.tif", {"compression": "packbits"}),
    ("1-g4.tif", {"compression": "group4"}),
    *[(f"{mode}.jpg", {"quality": 90}) for mode in ("RGB", "L", "CMYK")],
    ("RGB.webp", {}),
    ("RGB.bmp", {}),
    ("RGB.ppm", {}),
    ("P.gif", {}),
]
if ".avif" in IMAGE_SUFFIXES:
    FILES.append(("RGB.avif", {}))


@pytest.fixture
def large(monkeypatch):
    """Small photos are read as large ones are."""
    monkeypatch.setattr(regions, "IN_MEMORY", 100)
    monkeypatch.setattr(regions, "_AT_ONCE", 2000)
    monkeypatch.setattr(regions, "_MAX_TOGETHER", 9000)


def windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """The whole, each corner pixel, a row, a column, and something in the middle."""
    corners = [(x, y, 1, 1) for x in (0, width - 1) for y in (0, height - 1)]
    return [
        (0, 0, width, height),
        *corners,
        (0, 17, width, 1),
        (29, 0, 1, height),
        (13, 18, 71, 40),
        (width - 40, height - 33, 40, 33),
    ]


def assert_parts_are_those_of_the_whole(file: Path) -> None:
    whole = read_photo(file)
    with open_regions(file) as photo:
        assert photo.size == (whole.shape[1], whole.shape[0])
        for left, top, width, height in windows(*photo.size):
            part = photo.read(left, top, width, height)
            assert part.dtype == np.uint8
            np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])
        assert photo.problem == ""


@pytest.mark.parametrize(("name", "options"), FILES, ids=[name for name, _ in FILES])
def test_parts_are_those_of_the_whole_photo(tmp_path, large, name, options):
    file = tmp_path / name.replace(";", "")
    picture(name.split(".")[0].split("-")[0]).save(file, **options)
    assert_parts_are_those_of_the_whole(file)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"), [(".jpg", {}), (".png", {}), (".tif", {}), (".tif", {"compression": "tiff_lzw"})]
)
def test_parts_are_upright(tmp_path, large, orientation, suffix, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a{suffix}"
    picture("RGB").save(file, exif=exif, **options)
    assert_parts_are_those_of_the_whole(file)


def png_of_16_bits(colours: int, values: np.ndarray, chunks: bytes = b"") -> bytes:
    """A PNG file whose rows are all filtered in the way called Paeth's."""
    height, width, channels = values.shape
    raw = values.astype(">u2").view(np.uint8).reshape(height, -1).astype(int)
    rows, above, step = [], np.zeros(raw.shape[1], int), 2 * channels
    for row in raw:
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        by = np.abs(np.stack([guess - left, guess - above, guess - corner]))
        predicted = np.choose(by.argmin(0), [left, above, corner])
        rows.append(b"\4" + ((row - predicted) % 256).astype(np.uint8).tobytes())
        above = row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("most", [200, 4000, 60_000])
@pytest.mark.parametrize(("colours", "channels"), [(0, 1), (2, 3), (6, 4)])
def test_png_of_16_bits_has_one_white_everywhere(tmp_path, large, colours, channels, most):
    values = np.random.default_rng(0).integers(0, most, (*SIZE[::-1], channels))
    values[:80] //= 50  # strips of another white by themselves
    values[:20] = 0
    (tmp_path / "a.png").write_bytes(png_of_16_bits(colours, values))
    assert_parts_are_those_of_the_whole(tmp_path / "a.png")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_of_16_bits_has_one_white_everywhere(tmp_path, large, compression):
    values = np.random.default_rng(0).integers(0, 4000, SIZE[::-1]).astype(np.uint16)
    values[:80] //= 50
    values[:20] = 0
    Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
    assert_parts_are_those_of_the_whole(tmp_path / "a.tif")


def tiff_in_tiles(
    pixels: np.ndarray, *, order: str = "<", big: bool = False, side: int = 32, compress: bool = True
) -> bytes:
    """A TIFF file as slide scanners write it: in tiles, perhaps as BigTIFF, its directory in front."""
    height, width, bands = pixels.shape
    rows, columns = -(-height // side), -(-width // side)
    padded = np.zeros((rows * side, columns * side, bands), np.uint8)
    padded[:height, :width] = pixels
    tiles = [
        padded[y : y + side, x : x + side].tobytes()
        for y in range(0, rows * side, side)
        for x in range(0, columns * side, side)
    ]
    tiles = [zlib.compress(tile) for tile in tiles] if compress else tiles
    word, entry, number = ("Q", ">HHQ" if order == ">" else "<HHQ", 8) if big else ("I", f"{order}HHI", 4)
    kind = 16 if big else 4
    values = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [8] * bands), 259: (3, [8 if compress else 1]),
        262: (3, [2]), 277: (3, [bands]), 284: (3, [1]), 322: (3, [side]), 323: (3, [side]),
        324: (kind, [0] * len(tiles)), 325: (kind, [len(tile) for tile in tiles]),
    }  # fmt: skip
    letters = {3: "H", 4: "I", 16: "Q"}
    start = 16 if big else 8
    directory = start + (8 if big else 2) + len(values) * (20 if big else 12) + number
    outside = {tag: len(v) * struct.calcsize(letters[k]) for tag, (k, v) in values.items()}
    first = directory + sum(size for size in outside.values() if size > number)
    values[324] = (kind, (first + np.cumsum([0, *map(len, tiles[:-1])])).tolist())
    head = {"<": b"II", ">": b"MM"}[order]
    head += struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    out, extra, at = struct.pack(f"{order}{'Q' if big else 'H'}", len(values)), b"", directory
    for tag, (k, listed) in sorted(values.items()):
        data = struct.pack(f"{order}{len(listed)}{letters[k]}", *listed)
        out += struct.pack(entry, tag, k, len(listed))
        if len(data) > number:
            out += struct.pack(f"{order}{word}", at)
            extra += data
            at += len(data)
        else:
            out += data.ljust(number, b"\0")
    return head + out + bytes(number) + extra + b"".join(tiles)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tiles_of_a_tiff_are_read_one_by_one(tmp_path, large, monkeypatch, order, big, compress):
    pixels = np.asarray(picture("RGB"))
    (tmp_path / "a.tif").write_bytes(tiff_in_tiles(pixels, order=order, big=big, compress=compress))
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif"), pixels)
    assert_parts_are_those_of_the_whole(tmp_path / "a.tif")
    decoded = []
    monkeypatch.setattr(
        regions,
        "decode_photo",
        lambda part, **options: decoded.append(images.decode_photo(part, **options)) or decoded[-1],
    )
    with open_regions(tmp_path / "a.tif") as photo:
        photo.read(40, 40, 10, 10)
    assert [one.photo.shape for one in decoded] == [(32, 32, 3)]


def test_a_damaged_tile_is_grey_and_the_rest_is_read(tmp_path, large):
    pixels = np.asarray(picture("RGB"))
    whole = bytearray(tiff_in_tiles(pixels))
    tile = whole.index(zlib.compress(pixels[32:64, 64:96].tobytes()))
    whole[tile : tile + 40] = b"\xff" * 40
    (tmp_path / "a.tif").write_bytes(whole)
    expected = pixels.copy()
    expected[32:64, 64:96] = FILL
    with open_regions(tmp_path / "a.tif") as photo:
        np.testing.assert_array_equal(photo.read(0, 0, *SIZE), expected)
        np.testing.assert_array_equal(photo.read(70, 20, 50, 50), expected[20:70, 70:120])
        assert photo.problem == f"{tmp_path}/a.tif: 32 × 32 px at (64, 32) cannot be read; they are grey"


def test_a_damaged_strip_is_grey_and_the_rest_is_read(tmp_path, large, monkeypatch):
    pixels = picture("RGB")
    pixels.save(tmp_path / "a.tif", compression="tiff_lzw", strip_size=450 * 10)
    with Image.open(tmp_path / "a.tif") as image:
        offsets, rows = image.tag_v2[273], image.tag_v2[278]
    assert rows == 10
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    whole[offsets[4] : offsets[4] + 60] = b"\xff" * 60
    (tmp_path / "a.tif").write_bytes(whole)
    expected = np.array(pixels)
    expected[40:50] = FILL
    with open_regions(tmp_path / "a.tif") as photo:
        np.testing.assert_array_equal(photo.read(0, 0, *SIZE), expected)
        assert "150 × 10 px at (0, 40) cannot be read; they are grey" in photo.problem
    for _ in range(2):  # whoever finds the pixels decoded knows it too
        with open_regions(tmp_path / "a.tif", keep=tmp_path) as photo:
            assert "150 × 10 px at (0, 40) cannot be read; they are grey" in photo.problem


@pytest.mark.parametrize(("name", "options"), [("a.tif", {}), ("a.tif", {"compression": "tiff_lzw"}), ("a.png", {})])
def test_of_a_large_file_that_ends_too_early_the_beginning_is_used(tmp_path, large, name, options):
    pixels = np.asarray(picture("RGB"))
    buffer = BytesIO()
    # The directory of a TIFF in front, so that its pixels are at the end.
    Image.fromarray(pixels).save(buffer, "TIFF" if name == "a.tif" else "PNG", **options)
    file = tmp_path / name
    if name == "a.tif":
        file.write_bytes(tiff_in_tiles(pixels, compress=bool(options)))
    else:
        file.write_bytes(buffer.getvalue())
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    with open_regions(file) as photo:
        part = photo.read(0, 0, *SIZE)
        assert "cannot be read" in photo.problem
    np.testing.assert_array_equal(part[:30], pixels[:30])
    np.testing.assert_array_equal(part[-1], np.full_like(part[-1], FILL))


@pytest.fixture
def whole_is_too_large(monkeypatch):
    """JPEG files are decoded row by row."""
    monkeypatch.setattr(regions, "MAX_PIXELS", 1000)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_parts_of_a_jpeg_too_large_to_decode_are_those_of_the_whole(
    tmp_path, large, whole_is_too_large, mode, subsampling
):
    pytest.importorskip("pyvips")
    picture(mode).save(tmp_path / "a.jpg", quality=85, subsampling=subsampling)
    assert_parts_are_those_of_the_whole(tmp_path / "a.jpg")


def test_of_a_large_jpeg_that_ends_too_early_the_beginning_is_used(tmp_path, large, whole_is_too_large):
    pytest.importorskip("pyvips")
    noise = np.random.default_rng(0).integers(0, 256, (640, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    whole = read_photo(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with open_regions(tmp_path / "a.jpg") as photo:
        np.testing.assert_array_equal(photo.read(0, 0, 200, 200), whole[:200])
        assert (photo.read(0, 400, 200, 240) == FILL).all()
        assert "rows from" in photo.problem


def test_a_large_jpeg_that_cannot_be_read_says_what_helps(tmp_path, large, whole_is_too_large, monkeypatch):
    picture("RGB").save(tmp_path / "a.jpg")
    picture("RGB").save(tmp_path / "p.jpg", progressive=True)
    picture("CMYK").save(tmp_path / "c.jpg")
    monkeypatch.setattr(regions.importlib.util, "find_spec", lambda name: None)
    for name, words in (
        ("a.jpg", r"a JPEG file of more than 1,000 pixels; pip install 'focaldet\[large\]' reads it"),
        ("p.jpg", "a progressive JPEG file of more than 1,000 pixels can only be decoded as a whole"),
        ("c.jpg", "a CMYK JPEG file of more than 1,000 pixels can only be decoded as a whole"),
    ):
        with pytest.raises(InputError, match=words):
            open_regions(tmp_path / name)


def sparse_tiff(path: Path, width: int, height: int) -> Path:
    """A black RGB photo that takes no room on the disk, as BigTIFF with a white pixel at the end."""
    count = 3 * width * height
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 2), (277, 3, 3), (284, 3, 1)]
    tags += [(273, 16, 4096), (278, 4, height), (279, 16, count)]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags)))
        for tag, kind, value in sorted(tags):
            file.write(
                struct.pack(
                    "<HHQQ", tag, kind, 3 if tag == 258 else 1, 8 + (8 << 16) + (8 << 32) if tag == 258 else value
                )
            )
        file.write(bytes(8))
        file.seek(4096 + count - 3)
        file.write(b"\xff\xff\xff")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_photo_of_more_than_a_gigapixel_is_read_in_little_memory(tmp_path):
    sparse_tiff(tmp_path / "a.tif", 40_000, 30_000)
    assert read_header(tmp_path / "a.tif", most=MAX_REGION_PIXELS)[:2] == (40_000, 30_000)
    with pytest.raises(InputError, match="more than 80,000,000 pixels; work on windows of it"):
        read_photo(tmp_path / "a.tif")
    code = (
        "import sys; from pathlib import Path; from focaldet.photos.regions import open_regions\n"
        "with open_regions(Path(sys.argv[1])) as photo:\n"
        "    corner = photo.read(39_360, 29_360, 640, 640)\n"
        "    for left in range(0, 39_000, 3_000): photo.read(left, left // 2, 1280, 1280)\n"
        # Not getrusage, which counts what the process that started this one had.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(photo.size, int(corner.sum()), int(peak.split()[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, text=True, check=True)
    size, _, rest = done.stdout.partition(") ")
    total, mebibytes = map(int, rest.split())
    assert (size, total) == ("(40000, 30000", 3 * 255)
    assert mebibytes < 200


@pytest.mark.slow
def test_a_large_photo_is_decoded_to_its_end(tmp_path):
    file = sparse_tiff(tmp_path / "a.tif", 9000, 9000)
    assert decode_to_the_end(file) == (FULL, "")
    assert "more than 80,000,000 pixels; work on windows of it (--tile)" in photo_problem(file)
    assert photo_problem(file, windows=True) == ""
    os.truncate(file, 4096 + 3 * 9000 * 8990)
    problem = f"{file}: 9,000 × 16 px at (0, 8,976) and 1 other parts cannot be read; they are grey"
    assert decode_to_the_end(file) == (FULL, problem)
    assert photo_problem(file, windows=True) == ""


def test_a_photo_whose_rows_do_not_fit_in_memory_is_refused_by_its_header(tmp_path):
    file = sparse_tiff(tmp_path / "a.tif", 1_000_001, 90)
    with pytest.raises(InputError, match=r"a\.tif: a side of more than 1,000,000 px"):
        open_regions(file)


def test_a_small_file_that_ends_too_early_is_refused(tmp_path):
    picture("RGB").save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"a\.jpg: damaged image"):
        open_regions(tmp_path / "a.jpg")


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, -1, 5, 5), (146, 0, 5, 5), (0, 97, 5, 5), (0, 0, 0, 5)])
def test_what_lies_outside_is_refused(tmp_path, box):
    picture("RGB").save(tmp_path / "a.png")
    with open_regions(tmp_path / "a.png") as photo, pytest.raises(InputError, match="are not inside its 150 × 101 px"):
        photo.read(*box)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_the_whole_photo_is_reduced_strip_by_strip(tmp_path, large, name):
    picture("RGB").save(tmp_path / name)
    expected = read_photo(tmp_path / name, max_side=30)
    with open_regions(tmp_path / name) as photo:
        small = photo.reduced(30)
        np.testing.assert_array_equal(photo.reduced(1000), read_photo(tmp_path / name))
    assert small.shape == expected.shape == (20, 30, 3)
    assert np.abs(small.astype(int) - expected).mean() < 3


def test_parts_are_read_by_many_threads_at_once(tmp_path, large):
    pixels = np.asarray(picture("RGB"))
    (tmp_path / "a.tif").write_bytes(tiff_in_tiles(pixels))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    boxes = [(x, y, 30, 30) for x in range(0, 120, 7) for y in range(0, 71, 7)]
    for name in ("a.tif", "a.png"):
        with open_regions(tmp_path / name) as photo, ThreadPoolExecutor(4) as pool:
            for (x, y, w, h), part in zip(boxes, pool.map(lambda box: photo.read(*box), boxes), strict=True):
                np.testing.assert_array_equal(part, pixels[y : y + h, x : x + w])


def test_without_room_for_decoded_pixels_it_is_said_at_once(tmp_path, large, monkeypatch):
    picture("RGB").save(tmp_path / "a.png")
    monkeypatch.setattr(
        "focaldet.photos.decoded_file.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})()
    )
    with pytest.raises(InputError, match=r"a\.png: its decoded pixels take 0\.0 GB, and .* has room for 0\.0 GB"):
        open_regions(tmp_path / "a.png")


def test_a_large_photo_without_a_readable_row_is_refused(tmp_path, large):
    picture("RGB").save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:60])
    with pytest.raises(InputError, match=r"a\.png: damaged image \(no row of it can be read\)"):
        open_regions(tmp_path / "a.png")


def test_nothing_is_left_of_a_photo_that_cannot_be_decoded(tmp_path, large):
    picture("RGB").save(tmp_path / "a.webp")
    data = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(data[: len(data) // 2])
    keep = tmp_path / "kept"
    keep.mkdir()
    with pytest.raises(InputError, match=r"a\.webp: damaged image"):
        open_regions(tmp_path / "a.webp", keep=keep)
    assert list(keep.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_decoded_pixels_are_kept_for_the_next_time(tmp_path, large, monkeypatch, name):
    picture("RGB").save(tmp_path / name)
    keep = tmp_path / "kept"
    keep.mkdir()
    with open_regions(tmp_path / name, keep=keep) as photo:
        whole = photo.read(0, 0, *SIZE)
    monkeypatch.setattr(regions, "decode_photo", None)
    monkeypatch.setattr(regions, "read_photo", None)
    with open_regions(tmp_path / name, keep=keep) as photo:
        np.testing.assert_array_equal(photo.read(0, 0, *SIZE), whole)

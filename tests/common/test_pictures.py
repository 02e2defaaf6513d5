"""Pictures as training and devices see them: 16 bits by their upper 8, on white, upright in every format."""

import io

import numpy as np
import pytest
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.common.pictures import to_rgb, upright

DEEP = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)


def reopened(image: Image.Image, form: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_16_bits_counts_by_its_upper_8(form: str) -> None:
    image = reopened(Image.fromarray(DEEP), form)
    assert image.mode.startswith("I;16")
    assert np.array_equal(np.asarray(to_rgb(upright(image)))[:, :, 1], DEEP >> 8)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_every_order_of_bytes(mode: str) -> None:
    raw = DEEP.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    assert np.array_equal(np.asarray(to_rgb(Image.frombytes(mode, (6, 4), raw)))[:, :, 0], DEEP >> 8)


def test_colours_of_16_bits_count_alike() -> None:
    """A PNG of 16 bits a channel, written by hand: Pillow writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in DEEP)
    head = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(np.asarray(to_rgb(Image.open(io.BytesIO(png))))[:, :, 2], DEEP >> 8)


def test_one_grey_of_16_bits_may_be_transparent() -> None:
    image = Image.fromarray(DEEP)
    image.info["transparency"] = int(DEEP[1, 1])
    expected = (DEEP >> 8).copy()
    expected[1, 1] = 255
    assert np.array_equal(np.asarray(to_rgb(image))[:, :, 0], expected)


@pytest.mark.parametrize("values", [np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32)])
def test_values_of_32_bits_are_refused(values: np.ndarray) -> None:
    with pytest.raises(UserError, match="values of 32 bits, and nothing says which of them are black and white"):
        to_rgb(reopened(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_in_every_format(form: str, orientation: int) -> None:
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = to_rgb(upright(reopened(image, form, exif=exif)))
    dark = {(x, y) for x in (4, seen.width - 5) for y in (4, seen.height - 5) if seen.getpixel((x, y))[0] < 100}
    right = orientation in (2, 3, 6, 7)
    below = orientation in (3, 4, 7, 8)
    assert seen.size == ((32, 16) if orientation < 5 else (16, 32))
    assert dark == {(seen.width - 5 if right else 4, seen.height - 5 if below else 4)}

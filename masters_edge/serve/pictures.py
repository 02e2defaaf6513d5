"""The picture of a request: a base64 `data:` URL in, a Pillow picture out, with bounds on what is decoded."""

import base64
import binascii
import io
import re
import warnings

from PIL import Image, UnidentifiedImageError

from masters_edge.common.pictures import upright
from masters_edge.serve.refusals import Refused

# What cameras, phones and screenshots make. Pillow knows dozens more, with decoders that few people look at.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64_000_000  # a 50-megapixel photo of a phone, and some; 192 MB decoded

_DATA_URL = re.compile(r"data:(?P<kind>[^;,]*)(?:;[^;,]*)*?;base64,", re.IGNORECASE)
_BROKEN = (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def read_url(url: str, where: str) -> bytes:
    """The bytes of a picture given as `data:image/...;base64,...`; `where` names its place in the request."""
    if url[:8].lower().startswith(("http:", "https:")):
        raise Refused(
            400,
            "this server fetches nothing from the network; send the picture itself as data:image/png;base64,...",
            param=where,
        )
    head = _DATA_URL.match(url, 0, 200)
    if head is None or not head["kind"].lower().startswith(("image/", "application/octet-stream")):
        raise Refused(400, "the picture must come as a URL of the form data:image/png;base64,...", param=where)
    try:
        return base64.b64decode("".join(url[head.end() :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"the picture's base64 can't be decoded ({error})", param=where) from None


def check(data: bytes, where: str) -> None:
    """Raise Refused for what is no picture, or a picture of too many pixels, by its header alone."""
    _open(data, where).close()


def decode(data: bytes, where: str) -> Image.Image:
    """The picture, upright as its EXIF data say; what `masters-edge ask` makes of a file of the same bytes."""
    with _open(data, where) as image:
        try:
            image.load()
            return upright(image)
        except _BROKEN as error:
            raise Refused(400, f"the picture can't be read ({error}); send a whole file", param=where) from None


def _open(data: bytes, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Refused(400, f"the picture has more than {MAX_PIXELS // 10**6} million pixels", param=where) from None
    except _BROKEN:
        raise Refused(400, f"the picture is none of {', '.join(FORMATS)}, or broken", param=where) from None
    if image.width * image.height > MAX_PIXELS:
        raise Refused(
            400,
            f"the picture has {image.width} x {image.height} pixels; at most {MAX_PIXELS // 10**6} million are read",
            param=where,
        )
    return image

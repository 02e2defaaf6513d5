"""What a picture looks like to a person, so that training and the device see the same: upright, on white, in RGB."""

from PIL import Image, ImageOps

from masters_edge.common.errors import UserError


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say; phones store photos as the sensor lay."""
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits a channel, with what is transparent laid on white.

    Of 16 bits the upper 8 count, in grey as in colour (where Pillow takes them as it reads).

    Raises:
        UserError: values of 32 bits, which say nothing about where black and white lie.
    """
    if image.mode.startswith("I;16"):
        image = _upper_bits(image)
    if image.mode in ("I", "F"):
        raise UserError(
            "the picture has values of 32 bits, and nothing says which of them are black and white; save it with 8 or "
            "16 bits a channel"
        )
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8; one value of it may stand for transparent."""
    import numpy as np  # reading data needs none

    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey

"""What a picture looks like to a person, so that training and the device see the same: upright, on white, in RGB."""

from PIL import Image, ImageOps


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say; phones store photos as the sensor lay."""
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, with what is transparent laid on white."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")

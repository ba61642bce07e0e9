"""Pictures as files have them: 8 or 16 bits, grey or RGB, alpha, colour profile; read upright, enlarged, written."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, ImageOps

from lightbsr_compat import InputError
from lightbsr_data.images import UnreadableImage, opened_image

_EIGHT_BITS = ("JPEG", "MPO", "WEBP", "BMP", "GIF")  # MPO: a JPEG with more behind it, as phones write
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_EXTRA_SAMPLES, _TIFF_SAMPLE_FORMAT = 258, 262, 338, 339
_BLACK_IS_ZERO, _RGB, _FLOATS, _PREMULTIPLIED = 1, 2, 3, 1


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        colour: (H, W, 3), RGB, or (H, W), grey; uint8 or uint16.
        alpha: (H, W) of the same type, not premultiplied; None where the picture has none.
        icc_profile: the colour profile, None for sRGB or unknown.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None


def read_picture(data: bytes, path: str) -> Picture:
    """Decode an image file; its orientation is applied.

    Args:
        data: the whole file.
        path: to be named in errors.

    Raises:
        InputError: what ``lightbsr_data.images.opened_image`` refuses, an animation, or a kind of pixels that cannot
            be kept (floating point, 32 bits, Lab, 16 bits with premultiplied alpha).
    """
    with opened_image(data, path) as image:
        # A phone's MPO holds other views behind the picture itself.
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise InputError(f"image {path!r} has {frames} frames or pages, but only single pictures are upscaled")
        profile = image.info.get("icc_profile") or None
        picture = _read_8_bits(image, path) if _has_8_bits(image, data, path) else _read_with_opencv(image, data, path)
    kind = b"GRAY" if picture.colour.ndim == 2 else b"RGB "
    if profile is not None and profile[16:20] != kind:  # a grey picture with a profile of colours: no file may have it
        profile = None
    return replace(picture, icc_profile=profile)


def _has_8_bits(image: Image.Image, data: bytes, path: str) -> bool:
    """Whether Pillow decodes the image without loss, as far as its header tells."""
    if image.format == "PNG":
        return data[24] <= 8
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == _FLOATS:
            raise InputError(
                f"image {path!r} has floating-point pixels, but must have 8 or 16 bits: nothing says white"
            )
        if max(tags.get(_TIFF_BITS, (1,))) <= 8:
            return True
        if tags.get(_TIFF_PHOTOMETRIC) not in (_BLACK_IS_ZERO, _RGB):
            raise InputError(f"image {path!r} has 16 bits and is neither RGB nor grey with black as 0")
        if _PREMULTIPLIED in tags.get(_TIFF_EXTRA_SAMPLES, ()):
            raise InputError(f"image {path!r} has 16 bits and premultiplied alpha: save it with plain alpha")
        return False
    return image.format in _EIGHT_BITS


def _read_8_bits(image: Image.Image, path: str) -> Picture:
    upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if mode in ("1", "L", "LA", "La"):
        kind = "L"
    elif mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"):
        kind = "RGB"
    else:
        raise InputError(f"image {path!r} has pixels of the kind {mode}, but must be RGB or grey of 8 or 16 bits")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in upright.info:
        pixels = np.asarray(upright.convert("RGBA"))
        colour = pixels[..., 0] if kind == "L" else pixels[..., :3]
        return Picture(np.ascontiguousarray(colour), np.ascontiguousarray(pixels[..., 3]))
    return Picture(np.array(upright.convert(kind)))


def _read_with_opencv(image: Image.Image, data: bytes, path: str) -> Picture:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnreadableImage(f"image {path!r} cannot be read: it is no image that OpenCV knows")
    if pixels.dtype not in (np.uint8, np.uint16) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise InputError(f"image {path!r} has pixels of type {pixels.dtype}, but must be RGB or grey of 8 or 16 bits")
    if image.format != "TIFF":  # OpenCV turns a TIFF itself
        pixels = _upright(pixels, image.getexif().get(0x0112, 1))
    if pixels.ndim == 2:
        return Picture(pixels)
    grey = image.format == "PNG" and data[25] in (0, 4)  # with alpha, which OpenCV reads as four channels
    colour = pixels[..., 0].copy() if grey else np.ascontiguousarray(pixels[..., 2::-1])
    return Picture(colour, pixels[..., 3].copy() if pixels.shape[2] == 4 else None)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation: 2 to 4 flip, 5 to 8 also change rows and columns."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def fill_hidden(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give fully transparent pixels the colour of the nearest pixel that shows.

    What a file holds there is arbitrary, often black, and a network would draw it into the edges that show.

    Args:
        colour: (H, W, 3) or (H, W).
        alpha: (H, W).

    Returns:
        As ``colour``; unchanged where everything shows, or nothing.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colour
    _, labels = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shown = ~hidden
    colours = np.zeros((labels.max() + 1, *colour.shape[2:]), colour.dtype)
    colours[labels[shown]] = colour[shown]  # every pixel that shows has a label of its own
    return colours[labels]


def enlarge_alpha(alpha: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic interpolation: a network that is trained on photographs would invent texture in a mask."""
    h, w = alpha.shape
    return cv2.resize(alpha, (w * scale, h * scale), interpolation=cv2.INTER_CUBIC)

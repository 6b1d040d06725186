"""Images, whatever format, mode and orientation they come in: opened within bounds, and upright in colours."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from toolkit.images.source import ImageError
from toolkit.memory import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import ImageFile

MOST_PIXELS = 128_000_000  # that are decoded
PIXEL_BYTES = 16  # of a pixel while it is decoded, converted and made smaller
COEFFICIENT_BYTES = 6  # of a pixel of a JPEG that can be decoded only as a whole

# The decoders, by how a file begins. Image.open would refuse a JPEG by the size before `draft`, and print warnings;
# both can be changed for a whole process only, which may be somebody's notebook.
_DECODERS: tuple[tuple[str, Callable[[bytes], bool], Callable[[io.BytesIO], ImageFile.ImageFile]], ...] = (
    ("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    ("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    ("WEBP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
    ("GIF", lambda head: head.startswith((b"GIF87a", b"GIF89a")), GifImagePlugin.GifImageFile),
    ("TIFF", lambda head: head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), TiffImagePlugin.TiffImageFile),
    ("BMP", lambda head: head.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
    ("PPM", lambda head: head[:1] == b"P" and head[1:2] in b"123456f", PpmImagePlugin.PpmImageFile),
)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # of parts of images: we bound the pixels

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what makes it upright
SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Open an image without decoding it.

    Raises
    ------
    ImageError
        If there is nothing in it, or it is in no format that is read: JPEG, PNG, WebP, GIF, TIFF, BMP, PPM.
    """
    if not data:
        raise ImageError("is empty")
    for _, is_it, decoder in _DECODERS:
        if is_it(data[:16]):
            return decoder(io.BytesIO(data))
    raise ImageError(f"is no image of a format that is read: {', '.join(name for name, *_ in _DECODERS)}")


def decode(data: bytes, *, most_bytes: int) -> Image.Image:
    """Decode a whole image: RGB, upright, what is transparent being white.

    Parameters
    ----------
    data : bytes
    most_bytes : int
        That decoding may take.

    Raises
    ------
    ImageError
        If it cannot be decoded, or not within these bytes.
    """
    try:
        with open_image(data) as image:
            needed = (PIXEL_BYTES + COEFFICIENT_BYTES) * bounded(image.size) + len(data)
            if needed > most_bytes:
                raise ImageError(
                    f"needs {format_size(needed)} to be decoded, of {format_size(most_bytes)} that there are for one "
                    f"image; raise --memory"
                )
            image.load()
            turn = turn_of(image)
            colours = on_white(averageable(image))
            return colours if turn is None else colours.transpose(turn)
    except ImageError:
        raise
    except Exception as error:  # on damaged data a decoder may raise anything
        raise ImageError(f"cannot be decoded: {' '.join(str(error).split())[:200] or type(error).__name__}") from error


def bounded(size: tuple[int, int]) -> int:
    """Return the pixels of an image, if they are few enough.

    Raises
    ------
    ImageError
        If they are not.
    """
    pixels = size[0] * size[1]
    if pixels > MOST_PIXELS:
        raise ImageError(
            f"has {pixels / 1e6:,.0f} megapixels ({size[0]:,} x {size[1]:,}); allowed: {MOST_PIXELS / 1e6:,.0f}"
        )
    return pixels


def on_white(image: Image.Image) -> Image.Image:
    """Return an `averageable` image as RGB, on white where it is transparent."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return what makes an image upright, by its EXIF orientation; damaged EXIF does not cost the image."""
    try:
        return _TURNS.get(int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    except Exception:  # Pillow raises nearly anything on damaged EXIF
        return None


def averageable(image: Image.Image) -> Image.Image:
    """Return the image in a mode whose pixels can be averaged: L, RGB, RGBA, CMYK or the like, 8 bits a channel."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretched(np.asarray(image)))
    if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa"):
        return image.convert("RGBA")
    if image.mode == "P":
        return image.convert("RGB")
    return image.convert("L") if image.mode == "1" else image


def _stretched(values: np.ndarray) -> np.ndarray:
    """Scale numbers of 32 bits to uint8: whole ones that 16 bits hold as such, others from their least to greatest."""
    if values.dtype.kind == "i" and values.min() >= 0 and 255 < values.max() <= 65535:
        return (values // 257).astype(np.uint8)
    is_number = np.isfinite(values)
    least, greatest = (
        (float(values[is_number].min()), float(values[is_number].max())) if is_number.any() else (0.0, 0.0)
    )
    found = np.empty(values.shape, np.uint8)
    for row, good, line in zip(values, is_number, found, strict=True):  # all at once would take 8 bytes a pixel, thrice
        line[:] = np.rint(255 * ((np.where(good, row, least) - least) / max(greatest - least, 1e-30)))
    return found

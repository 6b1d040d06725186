"""Small copies of images, decoded by all processors within the memory budget; what is damaged costs itself only."""

from __future__ import annotations

import csv
import io
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, JpegImagePlugin

from toolkit.atomic import write_text
from toolkit.backend.cpu import ordered_map
from toolkit.images.decode import (
    COEFFICIENT_BYTES,
    PIXEL_BYTES,
    SIDEWAYS,
    averageable,
    bounded,
    on_white,
    open_image,
    turn_of,
)
from toolkit.images.source import ImageError
from toolkit.memory import MemoryBudget, format_size, n_threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from PIL import ImageFile

    from toolkit.images.source import ImageSource

_LEAST_BYTES = 32 << 20  # for each thread
_GAP = 2.0  # times the size of the thumbnail: down to there, cheap filters do
_MARKER, _START_OF_SCAN = 0xFF, 0xDA  # in a JPEG


class Thumbnail(NamedTuple):
    """A row and its image: RGB, at most `size` pixels a side; None where the row is among the problems."""

    row: int
    image: Image.Image | None


class Thumbnails:
    """Small copies of the images of a source.

    An image larger than `size` is averaged down to it; a smaller one is enlarged by the largest whole factor that
    fits, each pixel becoming a square. Images are upright (EXIF), what is transparent is white, of an animation the
    first picture is taken, 16 bits a pixel are scaled to 8, and other numbers (32 bits, fractions) from their least
    and greatest. The ``info["original_size"]`` of a copy is the width and height of the upright image.

    Parameters
    ----------
    source : ImageSource
        Its `problems` take what cannot be decoded.
    size : int
        Pixels of the longer side.
    memory : MemoryBudget
        How many images are decoded at once, and how large a single one may be.

    Raises
    ------
    MemoryBudgetError
        If less than 64 MiB are free.
    """

    def __init__(self, source: ImageSource, size: int, memory: MemoryBudget) -> None:
        self.source, self.size = source, size
        memory.require(2 * _LEAST_BYTES, "decoding images")
        self.workers = max(1, min(n_threads(), memory.free // (2 * _LEAST_BYTES)))
        self._room = _Room(memory.free, self.workers)

    @property
    def problems(self) -> dict[int, str]:
        """Row -> why its image cannot be used; those of the source."""
        return self.source.problems

    def stream(self, rows: Iterable[int]) -> Iterator[Thumbnail]:
        """Yield the thumbnails of these rows, in their order, a few being decoded ahead."""
        return (Thumbnail(*found) for found in ordered_map(self._with_row, rows, workers=self.workers))

    def _with_row(self, row: int) -> tuple[int, Image.Image | None]:
        return row, self.one(row)

    def one(self, row: int) -> Image.Image | None:
        """Return the thumbnail of one row, decoded in the calling thread, or None and the reason in `problems`."""
        row = int(row)
        if row in self.problems:
            return None
        try:
            return self._make(row)
        except ImageError as error:
            self.problems[row] = str(error)
        except Exception as error:  # on damaged data a decoder may raise anything
            self.problems[row] = f"cannot be decoded: {' '.join(str(error).split())[:200] or type(error).__name__}"
        return None

    def _make(self, row: int) -> Image.Image:
        n_bytes = self.source.n_bytes(row)
        with self._room.hold(n_bytes), open_image(data := self.source.read(row)) as image:
            full = image.size
            n_decoded = _decoded_bytes(image, data, self.size)
            with self._room.hold(n_bytes + n_decoded, held=n_bytes):
                return _thumbnail(image, self.size, full)


def write_skipped(path: Path, source: ImageSource) -> int:
    """Write the images that cannot be used as CSV (row, image_path, reason), whole or not at all.

    Returns
    -------
    int
        How many there are; without any there is no file, and an earlier one is removed.
    """
    if not source.problems:
        path.unlink(missing_ok=True)
        return 0
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "image_path", "reason"])
    problems = sorted(source.problems.items())
    writer.writerows([row, source.paths[row], reason] for row, reason in problems)
    write_text(path, text.getvalue())
    return len(problems)


class _Room:
    """Memory for images in flight: a share for each thread, and as much as all shares for one large image at a time.

    A thread that needs more than its share waits for the large place; the one that has it waits for nobody.
    """

    def __init__(self, n_bytes: int, workers: int) -> None:
        self._large, self._share = n_bytes // 2, n_bytes // 2 // workers
        self._large_place = threading.Lock()

    @contextmanager
    def hold(self, n_bytes: int, *, held: int = 0) -> Iterator[None]:
        """Wait until the calling thread may take so many bytes, `held` of which it has already.

        Raises
        ------
        ImageError
            If that is more than there ever is.
        """
        if n_bytes > self._large:
            raise ImageError(
                f"needs {format_size(n_bytes)} to be decoded, of {format_size(self._large)} that the memory budget "
                f"leaves for one image; raise --memory"
            )
        needs_place = n_bytes > self._share >= held  # else it has it, or needs none
        with self._large_place if needs_place else nullcontext():
            yield


# What decoding takes
def _decoded_bytes(image: ImageFile.ImageFile, data: bytes, size: int) -> int:
    """Return what decoding takes, from the header alone; lets a JPEG be decoded as small as will do.

    Raises
    ------
    ImageError
        If the image has too many pixels.
    """
    full = image.size
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return PIXEL_BYTES * bounded(full)
    wanted = _fitting(full, size)
    image.draft(None, (round(_GAP * wanted[0]), round(_GAP * wanted[1])))
    whole = COEFFICIENT_BYTES * bounded(full) if _is_held_whole(image, data) else 0
    return whole + PIXEL_BYTES * bounded(image.size)


def _is_held_whole(image: JpegImagePlugin.JpegImageFile, data: bytes) -> bool:
    """Tell whether all coefficients of a JPEG must be held, however small it is decoded.

    So it is where the image comes in several scans: progressive, or one colour after the other.
    """
    if image.info.get("progressive"):
        return True
    at = 2
    while data[at + 1] != _START_OF_SCAN:
        if data[at] != _MARKER:
            return True  # unusual; suppose the worst
        at += 1 if data[at + 1] == _MARKER else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[at + 4] < image.layers


# Decoding
def _thumbnail(image: ImageFile.ImageFile, size: int, full: tuple[int, int]) -> Image.Image:
    image.load()
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        full = image.size  # a TIFF may turn when it is decoded; a JPEG is decoded smaller
    turn = turn_of(image)
    small = on_white(_resized(averageable(image), size))
    small = small if turn is None else small.transpose(turn)
    small.info["original_size"] = full[::-1] if turn in SIDEWAYS else full
    return small


def _resized(image: Image.Image, size: int) -> Image.Image:
    factor = size // max(image.size)
    if factor >= 1:
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    return image.resize(_fitting(image.size, size), Image.Resampling.LANCZOS, reducing_gap=_GAP)


def _fitting(full: tuple[int, int], size: int) -> tuple[int, int]:
    """Return the size of the largest picture of these proportions, at most `size` a side, and not larger than it."""
    scale = min(1.0, size / max(full))
    return max(1, round(scale * full[0])), max(1, round(scale * full[1]))

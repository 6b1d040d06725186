"""Images decoded and resized by NVIDIA DALI: on a GPU as a batch, elsewhere by the processor.

Only what DALI decodes as Pillow does is given to it; see `why_not`.
"""

from __future__ import annotations

import io
from collections import deque
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from toolkit.errors import DeviceError, MissingPackageError, one_line
from toolkit.images.decode import COEFFICIENT_BYTES, SIDEWAYS, bounded, open_image, turn_of
from toolkit.images.source import ImageError
from toolkit.memory import format_size
from toolkit.packages import import_package

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from PIL import ImageFile

MODULE, PACKAGES = "nvidia.dali", ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
RESAMPLES = {Image.Resampling.BILINEAR: "INTERP_LINEAR", Image.Resampling.BICUBIC: "INTERP_CUBIC"}
_MODES = ("L", "RGB")
_PIXEL_BYTES = 8  # of a pixel while DALI decodes and resizes its image, measured: 3, and as much again in its pools
_DEPTH = 2  # groups in DALI at once: one is decoded while another is used
_MOST_IMAGES, _GROUP_BYTES = 32, 256 << 20  # of a group, but one image may take more
_PNG_DEPTH_AT = 24  # of the byte that says how many bits a channel has
_PNG_TURNS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # where a PNG may say that it lies on its side
# How an image that lies as `turn_of` says becomes upright: rows and columns change places, then axes are reversed.
_UPRIGHT: dict[Image.Transpose, tuple[bool, tuple[int, ...]]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: (False, (1,)),
    Image.Transpose.ROTATE_180: (False, (0, 1)),
    Image.Transpose.FLIP_TOP_BOTTOM: (False, (0,)),
    Image.Transpose.TRANSPOSE: (True, ()),
    Image.Transpose.ROTATE_270: (True, (1,)),
    Image.Transpose.TRANSVERSE: (True, (0, 1)),
    Image.Transpose.ROTATE_90: (True, (0,)),
}


class Encoded(NamedTuple):
    """An image as its file has it, and what DALI must know of it.

    Attributes
    ----------
    data : bytes
    turn : PIL.Image.Transpose or None
        That makes it upright.
    needs : int
        Bytes, while it is decoded.
    """

    data: bytes
    turn: Image.Transpose | None
    needs: int


def is_installed() -> bool:
    """Whether DALI is there; it is not imported."""
    try:
        return find_spec(MODULE) is not None
    except ModuleNotFoundError:
        return False


def require() -> None:
    """Refuse to go on without DALI.

    Raises
    ------
    MissingPackageError
    """
    if not is_installed():
        raise MissingPackageError(
            f"the loader dali needs the package {MODULE}, which is missing: pip install {PACKAGES[0]} (CUDA 12) or "
            f"{PACKAGES[1]} (CUDA 13)"
        )


def encoded(data: bytes, *, most_bytes: int) -> Encoded | str:
    """Look at the header of an image: return it ready for DALI, or why it is none for DALI.

    Parameters
    ----------
    data : bytes
    most_bytes : int
        That decoding may take.

    Raises
    ------
    ImageError
        If there is no image, or it has more pixels than are decoded, or needs more memory.
    """
    try:
        with open_image(data) as image:
            needs = (_PIXEL_BYTES + COEFFICIENT_BYTES) * bounded(image.size) + len(data)
            if reason := why_not(image, data):
                return reason
            if needs > most_bytes:
                raise ImageError(
                    f"needs {format_size(needs)} to be decoded, of {format_size(most_bytes)} that there are for one "
                    f"image; raise --memory"
                )
            return Encoded(data, None if image.format == "PNG" else turn_of(image), needs)
    except ImageError:
        raise
    except Exception as error:  # on damaged data a decoder may raise anything
        raise ImageError(f"cannot be decoded: {one_line(error)}") from error


def why_not(image: ImageFile.ImageFile, data: bytes) -> str | None:
    """Return why Pillow decodes an image that was opened, None where DALI does.

    DALI decodes JPEG, PNG and WebP in grey or RGB of 8 bits. What is transparent would not be white, 16 bits would be
    scaled differently, and printing colours and palettes depend on the decoder.
    """
    if image.format not in ("JPEG", "PNG", "WEBP"):
        return f"format {image.format}"
    if getattr(image, "is_animated", False):
        return "animated"
    if "transparency" in image.info or image.mode not in _MODES:
        return f"mode {image.mode}" if image.mode not in _MODES else "transparent"
    if image.format == "PNG" and data[_PNG_DEPTH_AT] != 8:
        return f"{data[_PNG_DEPTH_AT]} bits a channel"
    if image.format == "PNG" and any(name in data for name in _PNG_TURNS):
        return "PNG that may be turned"  # Pillow decodes a PNG before it says how it lies
    return None


class DaliResizer:
    """Decodes images and resizes them to one size, their shape not being kept, as Pillow does within rounding.

    Parameters
    ----------
    size : tuple of int
        Height and width.
    resample : PIL.Image.Resampling
        One of `RESAMPLES`; what is made smaller is averaged.
    device : {"cpu", "cuda"}
    threads : int
        That decode.
    most_bytes : int
        That all images in DALI may take at once.

    Raises
    ------
    MissingPackageError
        Without DALI.
    DeviceError
        If DALI cannot use the device.

    Notes
    -----
    What becomes of an image depends on nothing but that image: not on those beside it, nor on `most_bytes` and
    `threads`. On 500 face crops resized by 1/8 to 2 the results on a CPU differ from Pillow's by a quarter of a grey
    level in the mean (half of one at 1/8), and by at most 25: Pillow's filters end at the edge of the image, DALI's
    take the edge as continued. Inside, at most 1 differs by the bilinear filter, and 20 beside sharp edges by the
    bicubic one, as Pillow clips between its two passes. A GPU decodes JPEG with other rounding.
    """

    def __init__(
        self, size: tuple[int, int], resample: Image.Resampling, *, device: str, threads: int, most_bytes: int
    ) -> None:
        self.size, self.device, self.threads, self.most_bytes = size, device, max(threads, 1), most_bytes
        self._resample = RESAMPLES[resample]
        self._dali = _dali()
        self._idle: list[Any] = []  # pipelines
        try:
            probe = self._submit([_probe()])
            self._collect(probe, 1)
        except Exception as error:  # errors of DALI have no common class
            raise DeviceError(f"DALI cannot use the device {device}: {one_line(error)}; use --loader pillow") from error

    def resized(self, images: Iterable[Encoded | None]) -> Iterator[Any]:
        """Yield each image as uint8 (height, width, 3), RGB, upright; None for None, and for what DALI cannot decode.

        On a GPU they are tensors of torch that lie there, else arrays of NumPy. While some are used, others are
        decoded.
        """
        under_way: deque[tuple[list[Encoded | None], Any]] = deque()
        for group in self._groups(images):
            under_way.append((group, self._submit(_there(group))))
            if len(under_way) == _DEPTH:
                yield from self._finished(*under_way.popleft())
        while under_way:
            yield from self._finished(*under_way.popleft())

    def _groups(self, images: Iterable[Encoded | None]) -> Iterator[list[Encoded | None]]:
        """Divide images so that few enough are in DALI at once; None takes no room."""
        most = min(_GROUP_BYTES, self.most_bytes // _DEPTH)
        group: list[Encoded | None] = []
        needed = n_images = 0
        for image in images:
            needs = 0 if image is None else image.needs
            if n_images and (needed + needs > most or n_images == _MOST_IMAGES):
                yield group
                group, needed, n_images = [], 0, 0
            group.append(image)
            needed, n_images = needed + needs, n_images + (image is not None)
        if group:
            yield group

    def _finished(self, group: list[Encoded | None], pipeline: Any) -> Iterator[Any]:
        """Yield what became of a group. An image that DALI cannot decode costs all of them: each is tried alone."""
        there = _there(group)
        try:
            found = iter(self._collect(pipeline, len(there)))
        except RuntimeError:
            found = (self._alone(image) for image in there)
        for image in group:
            seen = None if image is None else next(found)
            yield seen if seen is None or image is None else _upright(seen, image.turn)

    def _alone(self, image: Encoded) -> Any:
        """Return what becomes of one image, None if DALI cannot decode it."""
        try:
            return self._collect(self._submit([image]), 1)[0]
        except RuntimeError:
            return None

    # DALI
    def _build(self) -> Any:
        dali, is_gpu = self._dali, self.device == "cuda"
        pipeline = dali.Pipeline(
            batch_size=_MOST_IMAGES,
            num_threads=self.threads,
            device_id=0 if is_gpu else None,
            prefetch_queue_depth=1,  # one group at a time, so that what fails takes nothing else along
        )
        with pipeline:
            data = dali.fn.external_source(name="encoded", dtype=dali.types.UINT8, ndim=1)
            size = dali.fn.external_source(name="size", dtype=dali.types.FLOAT, ndim=1)
            pixels = dali.fn.decoders.image(
                data,
                device="mixed" if is_gpu else "cpu",
                output_type=dali.types.RGB,
                adjust_orientation=False,  # by our own rule, which also reads what is not EXIF
            )
            pipeline.set_outputs(
                dali.fn.resize(
                    pixels,
                    size=size,
                    mode="stretch",
                    interp_type=getattr(dali.types, self._resample),
                    antialias=True,
                )
            )
        pipeline.build()
        return pipeline

    def _submit(self, images: list[Encoded]) -> Any:
        """Begin to decode images, without waiting for them; return the pipeline that does it."""
        if not images:
            return None
        pipeline = self._idle.pop() if self._idle else self._build()
        sizes = [self.size[::-1] if image.turn in SIDEWAYS else self.size for image in images]
        pipeline.feed_input("encoded", [np.frombuffer(image.data, np.uint8) for image in images])
        pipeline.feed_input("size", [np.array(size, np.float32) for size in sizes])
        pipeline.schedule_run()
        return pipeline

    def _collect(self, pipeline: Any, n_images: int) -> list[Any]:
        """Wait for what a pipeline does; one that fails is not used again."""
        if pipeline is None:
            return []
        (found,) = pipeline.share_outputs()
        images = _copied(found, n_images, is_gpu=self.device == "cuda")
        pipeline.release_outputs()
        self._idle.append(pipeline)
        return images


def _copied(found: Any, n_images: int, *, is_gpu: bool) -> list[Any]:
    """Take images out of DALI's memory, which it uses again."""
    if not is_gpu:
        return [np.array(found.at(i)) for i in range(n_images)]
    import torch

    images = [torch.from_dlpack(found[i]).clone() for i in range(n_images)]
    torch.cuda.current_stream().synchronize()
    return images


def _upright(image: Any, turn: Image.Transpose | None) -> Any:
    """Turn an array or a tensor (height, width, 3)."""
    if turn is None:
        return image
    swaps, reversed_axes = _UPRIGHT[turn]
    image = image.swapaxes(0, 1) if swaps else image
    return image.flip(reversed_axes) if hasattr(image, "flip") else np.flip(image, reversed_axes)


def _there(group: list[Encoded | None]) -> list[Encoded]:
    return [image for image in group if image is not None]


def _probe() -> Encoded:
    """Make a small image, with which a pipeline shows whether it works at all."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "grey").save(file, "JPEG")
    return Encoded(file.getvalue(), None, 0)


def _dali() -> Any:
    """Import DALI."""
    require()
    for part in ("fn", "types", "pipeline"):
        import_package(f"{MODULE}.{part}", pip=PACKAGES[0], what="the loader dali")
    return import_package(MODULE, pip=PACKAGES[0], what="the loader dali")

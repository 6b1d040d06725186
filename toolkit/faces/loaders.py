"""How the images of a chunk become what a network sees: decoded and resized by Pillow, or by NVIDIA DALI."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from toolkit.backend.cpu import ordered_map
from toolkit.errors import InputError, unknown
from toolkit.faces.images import read_image
from toolkit.faces.models.embedder import WholeImageEmbedder
from toolkit.images import dali
from toolkit.images.decode import decode
from toolkit.images.source import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from toolkit.faces.images import Images
    from toolkit.faces.models import Choice
    from toolkit.faces.models.embedder import Embedder

AUTO, PILLOW, DALI = LOADERS = ("auto", "pillow", "dali")


class LoaderChoice(NamedTuple):
    """A loader, and why it is this one."""

    name: str
    reason: str


class Line(NamedTuple):
    """What is to be known of an image beside its descriptor.

    Attributes
    ----------
    digest : str
        Of the bytes of its file; empty where they cannot be read.
    reason : str
        Why it has no descriptor; empty if it has one.
    by_pillow : str
        Why DALI did not decode it, where DALI is the loader.
    """

    digest: str = ""
    reason: str = ""
    by_pillow: str = ""


@dataclass(frozen=True)
class Share:
    """What of the machine a process may take.

    Attributes
    ----------
    most_bytes : int
        That decoding an image may take.
    threads : int
        That read and decode beside this one; 0: none.
    """

    most_bytes: int
    threads: int


def choose_loader(name: str, choice: Choice) -> LoaderChoice:
    """Decide which loader reads the images of a model.

    Parameters
    ----------
    name : {"auto", "pillow", "dali"}
        ``auto`` is DALI where it is installed, the network is on a GPU, and it sees whole images.
    choice : Choice

    Raises
    ------
    InputError
        If there is no such loader, or DALI is asked for with a network that looks for faces.
    MissingPackageError
        If DALI is asked for and not installed.
    """
    if name not in LOADERS:
        raise unknown("loader", name, LOADERS)
    if not choice.card.whole_image:
        if name == DALI:
            raise InputError(
                f"loader dali with model {choice.name}, which looks for faces in images of any size; allowed: pillow"
            )
        return LoaderChoice(PILLOW, f"{choice.name} looks for faces in images of any size")
    if name == DALI:
        dali.require()
    if name != AUTO:
        return LoaderChoice(name, "it was asked for")
    if choice.device != "cuda":
        return LoaderChoice(PILLOW, "the network is on the CPU")
    if not dali.is_installed():
        return LoaderChoice(PILLOW, "DALI is not installed")
    return LoaderChoice(DALI, "the network is on a GPU and DALI is installed")


def open_loader(name: str, images: Images, embedder: Embedder, share: Share, *, device: str) -> Loader:
    """Make a loader in the process that uses it."""
    if name == DALI:
        return DaliLoader(images, embedder, share, device=device)
    return PillowLoader(images, embedder, share)


class Loader(ABC):
    """Turns rows into what the network sees.

    Parameters
    ----------
    images : Images
    embedder : Embedder
    share : Share
    """

    def __init__(self, images: Images, embedder: Embedder, share: Share) -> None:
        self.is_aligned, self.source = images.is_aligned, images.open()
        self.embedder, self.share = embedder, share

    @abstractmethod
    def stream(self, rows: Iterable[int]) -> Iterator[tuple[Line, Any]]:
        """Yield the line of each row and the input of the network, None where there is none."""

    def _by_pillow(self, row: int, data: bytes, line: Line) -> tuple[Line, np.ndarray | None]:
        """Decode an image and make it the input of the network."""
        try:
            image = np.asarray(decode(data, most_bytes=self.share.most_bytes))
            return line, self.embedder.prepare(image, is_aligned=bool(self.is_aligned[row]))
        except ImageError as error:
            return line._replace(reason=str(error)), None


class PillowLoader(Loader):
    """Image by image, on the threads of the share."""

    def stream(self, rows: Iterable[int]) -> Iterator[tuple[Line, Any]]:  # noqa: D102
        return ordered_map(self._one, rows, workers=self.share.threads)

    def _one(self, row: int) -> tuple[Line, np.ndarray | None]:
        try:
            data = read_image(self.source, row)
        except ImageError as error:
            return Line(reason=str(error)), None
        return self._by_pillow(row, data, Line(xxhash.xxh3_128_hexdigest(data)))


class DaliLoader(Loader):
    """What DALI decodes as Pillow does goes through DALI, the rest through Pillow; for networks that see all of it.

    Parameters
    ----------
    images, embedder, share
        As for any.
    device : {"cpu", "cuda"}
    """

    def __init__(self, images: Images, embedder: Embedder, share: Share, *, device: str) -> None:
        super().__init__(images, embedder, share)
        if not isinstance(embedder, WholeImageEmbedder):
            raise AssertionError(f"{type(embedder)} does not see whole images")
        self.resizer = dali.DaliResizer(
            embedder.size, embedder.resample, device=device, threads=share.threads, most_bytes=share.most_bytes
        )

    def stream(self, rows: Iterable[int]) -> Iterator[tuple[Line, Any]]:  # noqa: D102
        ahead: deque[tuple[int, _Looked]] = deque()

        def images() -> Iterator[dali.Encoded | None]:
            for found in ordered_map(self._look, rows, workers=self.share.threads):
                ahead.append(found)
                yield found[1].encoded

        for seen in self.resizer.resized(images()):
            row, (line, image, prepared) = ahead.popleft()
            if image is None:
                yield line, prepared
            elif seen is None:
                yield self._by_pillow(row, image.data, line._replace(by_pillow="DALI could not decode it"))
            else:
                yield line, seen

    def _look(self, row: int) -> tuple[int, _Looked]:
        """Read an image, and decode it if it is none for DALI."""
        line = Line()
        try:
            data = read_image(self.source, row)
            line = Line(xxhash.xxh3_128_hexdigest(data))
            image = dali.encoded(data, most_bytes=self.share.most_bytes)
        except ImageError as error:
            return row, _Looked(line._replace(reason=str(error)))
        if isinstance(image, dali.Encoded):
            return row, _Looked(line, image)
        line, prepared = self._by_pillow(row, data, line._replace(by_pillow=image))
        return row, _Looked(line, None, prepared)


class _Looked(NamedTuple):
    line: Line
    encoded: dali.Encoded | None = None
    prepared: np.ndarray | None = None

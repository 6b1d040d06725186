"""The three networks of MTCNN (Zhang et al. 2016), with the names that the state dicts of facenet-pytorch have.

Each says how likely its window shows a face, and by which shares of the window's sides the face's left, top, right
and bottom lie from the window's. Poolings go beyond the right and lower edge, as Caffe's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from toolkit.errors import InputError
from toolkit.faces.models.weights import load_state
from toolkit.packages import packaged_file

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "facenet_pytorch"
WEIGHTS = {
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}  # SHA-256 of the files in the package


class PNet(nn.Module):  # type: ignore[misc]
    """Proposes: sees every window of 12 x 12 pixels, two pixels apart.

    Called with images (n, 3, height, width), it returns probabilities (n, rows, columns) and shares (n, 4, rows,
    columns).
    """

    side = 12

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities and shares."""
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return _probability(self.conv4_1(x)), self.conv4_2(x)


class RNet(nn.Module):  # type: ignore[misc]
    """Refines: sees one window of 24 x 24 pixels.

    Called with images (n, 3, 24, 24), it returns probabilities (n,) and shares (n, 4).
    """

    side = 24

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(64 * 3 * 3, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities and shares."""
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = _in_a_row(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.dense4(x))
        return _probability(self.dense5_1(x)), self.dense5_2(x)


class ONet(nn.Module):  # type: ignore[misc]
    """Decides: sees one window of 48 x 48 pixels, and five landmarks in it.

    Called with images (n, 3, 48, 48), it returns probabilities (n,), shares (n, 4), and where the landmarks are as
    shares of the window's sides, five x and then five y (n, 10).
    """

    side = 48

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(128 * 3 * 3, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return probabilities, shares and landmarks."""
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = _in_a_row(self.prelu4(self.conv4(x)))
        x = self.prelu5(self.dense5(x))
        return _probability(self.dense6_1(x)), self.dense6_2(x), self.dense6_3(x)


def given_files(folder: Path) -> tuple[Path, ...]:
    """Return the files with the weights of the three networks in a folder, or raise InputError."""
    files = tuple(folder / name for name in WEIGHTS)
    if missing := [path.name for path in files if not path.is_file()]:
        raise InputError(
            f"weights {folder}: {', '.join(missing)} missing; give detector 'mtcnn' a folder with {', '.join(WEIGHTS)}"
        )
    return files


def packaged_files() -> tuple[Path, ...]:
    """Return the files with the weights of the three networks in the package facenet-pytorch, which is not imported.

    Raises
    ------
    MissingPackageError
        Without the package. Its own versions of torch and NumPy are older than others allow, and are not needed.
    InputError
        If a file is not the one that is known.
    """
    return tuple(
        packaged_file(
            PACKAGE, f"data/{name}", what="the detector mtcnn", sha256=sha256, pip="--no-deps facenet-pytorch"
        )
        for name, sha256 in WEIGHTS.items()
    )


def open_networks(files: tuple[Path, ...]) -> tuple[PNet, RNet, ONet]:
    """Load the networks from a file each; see `toolkit.faces.models.weights.load_state`."""
    pnet, rnet, onet = map(_opened, (PNet(), RNet(), ONet()), files)
    return pnet, rnet, onet


def _opened(network: Any, path: Path) -> Any:
    load_state(network, path, what=f"{type(network).__name__} of mtcnn")
    return network.eval().to(memory_format=torch.channels_last)  # two thirds of the time


def _probability(x: torch.Tensor) -> torch.Tensor:
    """Of the second of two classes, which is a face."""
    return torch.softmax(x, dim=1)[:, 1]


def _in_a_row(x: torch.Tensor) -> torch.Tensor:
    """Return all numbers of each image in the order of MATLAB, where the weights come from: columns, rows, channels."""
    return x.permute(0, 3, 2, 1).flatten(1)

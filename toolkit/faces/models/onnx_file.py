"""ONNX files with one image input, by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.device import DEVICES
from toolkit.errors import DeviceError, InputError, one_line, unknown
from toolkit.faces.models.embedder import WholeImageEmbedder
from toolkit.faces.models.preprocessing import PREPROCESSINGS
from toolkit.packages import import_package

if TYPE_CHECKING:
    from toolkit.faces.models import Choice

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CHANNELS = 3
_ARCFACE = "arcface"  # where there is no choice


def choose_provider(device: str) -> str:
    """Return ``"cuda"`` or ``"cpu"``; ``"auto"`` is a GPU where the installed onnxruntime has one.

    Raises
    ------
    MissingPackageError
        Without onnxruntime.
    DeviceError
        If a GPU is asked for that onnxruntime cannot use.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if device == "cpu":
        return device
    has_cuda = _PROVIDERS["cuda"] in _runtime().get_available_providers()
    if device == "cuda" and not has_cuda:
        raise DeviceError(
            "--device cuda: the installed onnxruntime cannot use a GPU; pip install onnxruntime-gpu, or use --device "
            "cpu"
        )
    return "cuda" if has_cuda else "cpu"


class OnnxEmbedder(WholeImageEmbedder):
    """A network in an ONNX file: layout (channels first or last) and size are those of its input.

    Parameters
    ----------
    choice : Choice
        Its member is the path of the file, or its weights are.

    Raises
    ------
    InputError
        If the file is none, its input is no RGB image of a fixed size in float32, or that or the descriptor is of
        another size than the card says.
    """

    def __init__(self, choice: Choice) -> None:
        self.path = choice.weights or Path(choice.member)
        self.session = _open(self.path, choice.device)
        image, self.channels_first, size, batch = _image_input(self.session, self.path)
        side = choice.card.input_size
        if side is not None and size != (side, side):
            raise self._other(choice, f"their input is {size[0]} x {size[1]}, not {side} x {side}")
        self.input = image.name
        self.output = self.session.get_outputs()[0].name
        mean, deviation = PREPROCESSINGS[choice.preprocessing or _ARCFACE]
        self.mean, self.deviation = np.array(mean, np.float32), np.array(deviation, np.float32)
        super().__init__(0, batch or choice.batch, size)
        # What the file says of its output may be missing or wrong: one image is tried.
        self.is_fixed = batch is not None
        self.dimensions = self._forward(np.zeros((1, *size, _CHANNELS), np.uint8)).shape[1]
        if choice.card.dimensions not in (None, self.dimensions):
            raise self._other(choice, f"they make {self.dimensions:,} numbers, not {choice.card.dimensions}")

    def _other(self, choice: Choice, what: str) -> InputError:
        return InputError(
            f"weights {self.path} are not those of {choice.card.name}: {what}; give those of this network, or take "
            f"onnx:PATH"
        )

    def _forward(self, inputs: np.ndarray) -> np.ndarray:
        n_images = len(inputs)
        if self.is_fixed and n_images < self.batch:  # the file takes whole batches only
            inputs = np.concatenate([inputs, np.zeros((self.batch - n_images, *inputs.shape[1:]), np.uint8)])
        images = (inputs.astype(np.float32) - self.mean) / self.deviation
        if self.channels_first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        found = np.asarray(self.session.run([self.output], {self.input: images})[0], np.float32)
        return found.reshape(len(inputs), -1)[:n_images]


def _open(path: Path, device: str) -> Any:
    runtime = _runtime()
    if not path.is_file():
        raise InputError(f"ONNX file {path} {'is no file' if path.exists() else 'does not exist'}; give a file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one descriptor for any number of processors
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=[_PROVIDERS[device]])
    except Exception as error:  # errors of onnxruntime have no common class
        reason = one_line(error)
        raise InputError(f"{path} is not an ONNX file that can be used: {reason}") from error


def _image_input(session: Any, path: Path) -> tuple[Any, bool, tuple[int, int], int | None]:
    """Return the input, whether its channels come first, its height and width, and its batch if that is fixed."""
    found = session.get_inputs()
    shape = list(found[0].shape)
    allowed = "allowed: one input of float32, n x 3 x height x width or n x height x width x 3, of fixed size"
    if len(found) != 1 or len(shape) != 4 or found[0].type != "tensor(float)":
        listed = ", ".join(f"{one.name} {one.type} {one.shape}" for one in found)[:200]
        raise InputError(f"{path} has the inputs {listed}; {allowed}")
    first = shape[1] == _CHANNELS
    size = tuple(shape[2:] if first else shape[1:3])
    if not (first or shape[3] == _CHANNELS) or not all(isinstance(side, int) and side > 0 for side in size):
        raise InputError(f"{path} has an input of shape {shape}; {allowed}")
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return found[0], first, (int(size[0]), int(size[1])), batch


def _runtime() -> Any:
    return import_package("onnxruntime", pip="onnxruntime", what="a model of an ONNX file")

"""Networks that turn images into descriptors: what makes an embedder of the card of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.backend.device import choose_backend
from toolkit.descriptors.cache import file_digest
from toolkit.errors import InputError, unknown
from toolkit.faces.models.cards import CHIP_MARGIN, MODELS, ModelCard, model_table
from toolkit.faces.models.preprocessing import PREPROCESSINGS

if TYPE_CHECKING:
    from toolkit.faces.models.embedder import Embedder

__all__ = ["CHIP_MARGIN", "MODELS", "Choice", "ModelCard", "choose_model", "make_embedder", "model_table"]

_ONNX = ("onnx", "arcface-onnx")  # computed by onnxruntime
_USUAL_BATCH = {"cpu": 4, "cuda": 64}  # images; larger ones are slower on a CPU, whose caches they leave


@dataclass(frozen=True)
class Choice:
    """A model and its options, checked; it can be sent to another process, where `open` makes the embedder.

    Attributes
    ----------
    card : ModelCard
    member : str
        What stands behind the colon of the name; empty without one.
    weights : Path or None
    preprocessing : str or None
    batch : int
    device : {"cpu", "cuda"}
    """

    card: ModelCard
    member: str
    weights: Path | None
    preprocessing: str | None
    batch: int
    device: str

    @property
    def name(self) -> str:
        """The name of the descriptor: ``dlib``, ``onnx_w600k_r50``, ``timm_resnet50.a1_in1k``."""
        family = self.card.name.partition(":")[0]
        if not self.member:
            return family
        return f"{family}_{Path(self.member).stem if family == 'onnx' else self.member.replace('/', '_')}"

    def identity(self) -> list[object]:
        """Return what decides the descriptors of an image, ready for JSON; weights by their content."""
        is_file = self.card.name == "onnx:PATH"
        file = Path(self.member) if is_file else self.weights
        content = self.card.sha256 if file is None else file_digest(file)
        return [self.card.name, "" if is_file else self.member, content, self.preprocessing, self.batch, self.device]

    def open(self) -> Embedder:
        """Load the network.

        Raises
        ------
        MissingPackageError
            Without the package that it needs.
        InputError
            If the weights are damaged or those of another network.
        DeviceError
            If the package cannot use the device.
        """
        # Imported here: each of them needs a package of its own.
        family = self.card.name.partition(":")[0]
        if family == "dlib":
            from toolkit.faces.models.dlib_resnet import DlibEmbedder

            return DlibEmbedder(self)
        if family in _ONNX:
            from toolkit.faces.models.onnx_file import OnnxEmbedder

            return OnnxEmbedder(self)
        from toolkit.packages import import_package

        import_package("torch", pip="torch", what=f"the model {self.card.name}")
        if family == "efficientnet_lite0":
            from toolkit.faces.models.efficientnet_lite0 import open_efficientnet_lite0

            return open_efficientnet_lite0(self)
        if family == "inception_resnet_v1":
            from toolkit.faces.models.inception_resnet_v1 import open_inception_resnet_v1

            return open_inception_resnet_v1(self)
        if family in ("vggface_resnet50", "vggface_senet50"):
            from toolkit.faces.models.vggface import open_vggface

            return open_vggface(self)
        if family == "mobilenet_v2_attributes":
            from toolkit.faces.attributes.weights import open_attributes

            return open_attributes(self)
        from toolkit.faces.models.timm_model import open_timm

        return open_timm(self)


def choose_model(
    name: str,
    *,
    weights: Path | None = None,
    accept_licence: bool = False,
    preprocessing: str | None = None,
    batch: int | None = None,
    device: str = "auto",
) -> Choice:
    """Check a model and its options without loading it.

    Parameters
    ----------
    name : str
        Of `MODELS`; a family with its member, for instance ``onnx:w600k_r50.onnx``.
    weights : Path, optional
        For models whose weights ship in no package: a state dict of PyTorch, a Keras file, or an ONNX file; the card
        of the model says which.
    accept_licence : bool
        Whether terms that exclude commercial use are accepted.
    preprocessing : {"arcface", "imagenet", "none"}, optional
        Of ``onnx:PATH`` only, by default ``"arcface"``.
    batch : int, optional
        Images that go through the network at once, at most 256; by default 4, on a GPU 64. dlib takes one at a time.
    device : {"auto", "cpu", "cuda"}

    Raises
    ------
    InputError
        For an unknown model, missing or needless weights, terms that were not accepted, a wrong batch.
    ToolkitError
        If a GPU is asked for and cannot be used.
    """
    card, member = _find(name)
    family = card.name.partition(":")[0]
    _check_weights(card, weights)
    if card.non_commercial and not accept_licence:
        raise InputError(
            f"the weights of {card.name} are not for commercial use ({card.licence}); if that suits you, accept the "
            f"terms by --accept-licence (accept_licence=True), or take a model without such terms: dlib"
        )
    if preprocessing is not None and family != "onnx":
        raise InputError(
            f"preprocessing {preprocessing!r} with model {name!r}; allowed: with onnx:PATH only, leave it out"
        )
    if family == "onnx":
        preprocessing = preprocessing or "arcface"
        if preprocessing not in PREPROCESSINGS:
            raise unknown("preprocessing", preprocessing, PREPROCESSINGS)
    if batch is not None and not 1 <= batch <= 256:
        raise InputError(f"batch is {batch}; allowed: 1 to 256 images")
    if family == "dlib" and batch not in (None, 1):
        raise InputError(f"batch is {batch}; allowed with dlib: 1, it takes one face at a time")
    where = _device(family, device)
    usual = 1 if family == "dlib" else _USUAL_BATCH[where]
    return Choice(card, member, weights, preprocessing, batch or usual, where)


def make_embedder(
    name: str,
    *,
    weights: Path | None = None,
    accept_licence: bool = False,
    preprocessing: str | None = None,
    batch: int | None = None,
    device: str = "auto",
) -> Embedder:
    """Load a model: called with RGB images, uint8 (height, width, 3), it returns float32 (n_images, dimensions).

    Parameters and errors are those of `choose_model` and `Choice.open`.
    """
    return choose_model(
        name,
        weights=weights,
        accept_licence=accept_licence,
        preprocessing=preprocessing,
        batch=batch,
        device=device,
    ).open()


def _find(name: str) -> tuple[ModelCard, str]:
    family, colon, member = name.partition(":")
    card = next((card for known, card in MODELS.items() if known.partition(":")[:2] == (family, colon)), None)
    if card is None or (colon and not member):
        raise unknown("model", name, MODELS)
    return card, member


def _check_weights(card: ModelCard, weights: Path | None) -> None:
    if card.offline or card.name == "onnx:PATH":
        if weights is not None:
            raise InputError(f"weights {weights} with model {card.name}, which brings its own; leave them out")
        return
    if weights is None:
        raise InputError(f"model {card.name} needs weights, which ship in no package; give a file ({card.source})")
    if not weights.is_file():
        raise InputError(f"weights {weights} {'is no file' if weights.exists() else 'does not exist'}; give a file")


def _device(family: str, device: str) -> str:
    if family in _ONNX:  # its own package decides, which may be there without torch
        from toolkit.faces.models.onnx_file import choose_provider

        return choose_provider(device)
    return choose_backend(device, engine="dlib" if family == "dlib" else "shared")[0].name

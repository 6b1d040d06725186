"""Networks whose weights are given: files of Keras, both VGGFace networks, Inception-ResNet-v1, ArcFace, the table."""

from __future__ import annotations

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from toolkit.cli import app
from toolkit.errors import InputError
from toolkit.faces.embed import embed_images
from toolkit.faces.models import MODELS, keras_file, make_embedder
from toolkit.faces.models.keras_file import is_keras_file, read_layers
from toolkit.progress import Reporter

NORMALISATION = ("gamma", "beta", "moving_mean", "moving_variance")


# Files of Keras, as Keras itself lays them out
def some_layers():
    """A convolution with a slash in its name, its normalisation, and a product; every array is another one."""
    rng = np.random.default_rng(3)
    shapes = {
        "conv1/7x7_s2": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "conv1/7x7_s2/bn": dict.fromkeys(NORMALISATION, (4,)),
        "head": {"kernel": (4, 5), "bias": (5,)},
    }
    return {
        layer: {role: rng.random(shape, np.float32) for role, shape in arrays.items()}
        for layer, arrays in shapes.items()
    }


def write_named(group, layers, *, form="{layer}/{role}:0", parts=1):
    """Write the layout of Keras 1 and 2."""
    names = np.array([name.encode() for name in layers])
    if parts == 1:
        group.attrs["layer_names"] = names
    else:
        for i, some in enumerate(np.array_split(names, parts)):
            group.attrs[f"layer_names{i}"] = some
    for layer, arrays in layers.items():
        inside = group.require_group(layer)
        listed = [form.format(layer=layer, role=role) for role in arrays]
        inside.attrs["weight_names"] = np.array([name.encode() for name in listed])
        for name, array in zip(listed, arrays.values(), strict=True):
            inside[name] = array


def keras_2(path, layers, **options):
    with h5py.File(path, "w") as file:
        write_named(file, layers, **options)
    return path


def keras_2_whole(path, layers):
    with h5py.File(path, "w") as file:
        write_named(file.create_group("model_weights"), layers, parts=2)
        file["optimizer_weights/SGD/m/head/kernel:0"] = np.ones(3)
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": []})
    return path


def keras_2_second_of_a_session(path, layers):
    """TensorFlow 1 has put numbers behind names that were there already."""
    return keras_2(path, layers, form="{layer}_3/{role}_1:0")


def keras_1(path, layers):
    old = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, arrays in layers.items():
            inside = file.require_group(layer)
            named = {f"{layer.replace('/', '-')}_{old.get(role, role)}": array for role, array in arrays.items()}
            inside.attrs["weight_names"] = [name.encode() for name in named]
            for name, array in named.items():
                inside[name] = array
    return path


def keras_2_nested(path, layers):
    """The convolution and its normalisation are in a model inside the model, whose name TensorFlow 1 puts before."""
    inner = {f"inner/{layer}/{role}:0": array for layer in list(layers)[:2] for role, array in layers[layer].items()}
    with h5py.File(path, "w") as file:
        write_named(file, {"head": layers["head"]})
        file.attrs["layer_names"] = [b"inner", b"pool", b"head"]
        file.create_group("pool").attrs["weight_names"] = np.zeros(0)
        inside = file.create_group("inner")
        inside.attrs["weight_names"] = [name.encode() for name in inner]
        for name, array in inner.items():
            inside[name] = array
    return path


KINDS = {"conv1/7x7_s2": "Conv2D", "conv1/7x7_s2/bn": "BatchNormalization", "head": "Dense"}
GROUPS = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}


def write_numbered(file, layers, *, named):
    for layer, arrays in layers.items():
        inside = file.create_group(f"layers/{GROUPS[KINDS[layer]]}/vars")
        if named:
            inside.attrs["name"] = layer
        for i, array in enumerate(arrays.values()):
            inside[str(i)] = array
    file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    file["optimizer/vars/0"] = np.ones(3, np.float32)


def keras_3_weights(path, layers):
    with h5py.File(path, "w") as file:
        write_numbered(file, layers, named=True)
    return path


def keras_3(path, layers, **settings):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write_numbered(file, layers, named=False)
    config = {
        "class_name": "Functional",
        "config": {
            "name": "functional",
            "layers": [
                {"class_name": kind, "config": {"name": layer} | settings.get(layer, {})}
                for layer, kind in KINDS.items()
            ],
        },
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content.getvalue())
    return path


LAYOUTS = [
    keras_1,
    keras_2,
    keras_2_whole,
    keras_2_second_of_a_session,
    keras_2_nested,
    keras_3_weights,
    keras_3,
]


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_of_keras_gives_the_same_layers(tmp_path, write):
    layers = some_layers()
    path = write(tmp_path / "a.bin", layers)  # what is inside decides, not the name
    assert is_keras_file(path)
    found = read_layers(path)
    assert {layer: set(arrays) for layer, arrays in found.items()} == {
        layer: set(arrays) for layer, arrays in layers.items()
    }
    for layer, arrays in layers.items():
        for role, array in arrays.items():
            assert found[layer][role].dtype == np.float32
            np.testing.assert_array_equal(found[layer][role], array, err_msg=f"{layer} {role}")


def test_layers_of_keras_2_come_in_the_order_of_the_file(tmp_path):
    layers = dict(reversed(some_layers().items()))
    assert list(read_layers(keras_2(tmp_path / "a.h5", layers))) == list(layers)


def test_a_normalisation_of_keras_3_that_does_not_multiply(tmp_path):
    layers = some_layers()
    norm = layers["conv1/7x7_s2/bn"]
    del norm["gamma"]
    found = read_layers(keras_3(tmp_path / "a.keras", layers, **{"conv1/7x7_s2/bn": {"scale": False}}))
    np.testing.assert_array_equal(found["conv1/7x7_s2/bn"]["moving_mean"], norm["moving_mean"])
    assert set(found["conv1/7x7_s2/bn"]) == set(norm)
    # Without a configuration nobody can tell gamma from beta.
    assert set(read_layers(keras_3_weights(tmp_path / "a.h5", layers))["conv1/7x7_s2/bn"]) == {"0", "1", "2"}


def test_a_depthwise_convolution_has_one_name_in_all_versions(tmp_path):
    kernel = np.ones((3, 3, 2, 1), np.float32)
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    with h5py.File(old, "w") as file:  # Keras 3 in the format of Keras 2
        write_named(file.create_group("model_weights"), {"dw": {"kernel": kernel}}, form="{layer}/{role}")
        layer = {"class_name": "DepthwiseConv2D", "config": {"name": "dw"}}
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"layers": [layer]}})
    with h5py.File(new, "w") as file:
        file["layers/depthwise_conv2d_1/vars/0"] = kernel
        file["layers/depthwise_conv2d_1/vars"].attrs["name"] = "dw"
    for path in (old, new):
        assert list(read_layers(path)["dw"]) == ["depthwise_kernel"]


# What is no such file
def one_kernel(change):
    """A file of one layer, whose kernel `change` puts into its group."""

    def write(path):
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv"]
            inside = file.create_group("conv")
            inside.attrs["weight_names"] = [b"conv/kernel:0"]
            change(inside.create_group("conv"), path)

    return write


def external_data(group, path):
    path.with_name("other").write_bytes(bytes(64))
    group.create_dataset("kernel:0", (4, 4), np.float32, external=[(str(path.with_name("other")), 0, 64)])


def virtual(group, path):
    with h5py.File(path.with_name("other"), "w") as file:
        file["x"] = np.ones(4, np.float32)
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(path.with_name("other"), "x", (4,))
    group.create_virtual_dataset("kernel:0", layout)


def external_link(group, path):
    with h5py.File(path.with_name("other"), "w") as file:
        file["x"] = np.ones(4, np.float32)
    group["kernel:0"] = h5py.ExternalLink(path.with_name("other"), "x")


def soft_link(group, _path):
    group["other"] = np.ones(4, np.float32)
    group["kernel:0"] = h5py.SoftLink("/conv/conv/other")


def text(group, _path):
    group.create_dataset("kernel:0", data=["a", "b"], dtype=h5py.string_dtype())


def huge(group, _path):
    group.create_dataset("kernel:0", (1 << 40,), np.float32, chunks=(1024,))


def never_filled(group, _path):
    group.create_dataset("kernel:0", (1 << 20,), np.float32, chunks=(1024,))


def twice(path):
    layers = {"a": {"x/kernel:0": 1, "x/kernel_1:0": 1, "y/bias:0": 1}}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        inside = file.create_group("a")
        inside.attrs["weight_names"] = [name.encode() for name in layers["a"]]
        for name in layers["a"]:
            inside[name] = np.ones(3, np.float32)


def numbers_for_names(path):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.arange(3)


def many_names(path):
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.create("layer_names", np.zeros((64 << 20) + 1, "S1"))


def truncated(path):
    keras_2(path, some_layers())
    path.write_bytes(path.read_bytes()[:-600])


def archive(**members):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name.replace("__", "."), content)

    return write


HOSTILE = {
    "lies in other files": [one_kernel(external_data), one_kernel(virtual)],
    "is a link": [one_kernel(external_link), one_kernel(soft_link)],
    "is no array of numbers": [one_kernel(text), one_kernel(lambda group, _: group.create_group("kernel:0"))],
    "would take 4,096.0 GiB; allowed: 4 GiB": [one_kernel(huge)],
    "layer_names would take 0.1 GiB; allowed: 0.0625 GiB": [many_names],
    "was never filled": [one_kernel(never_filled)],
    "is listed and not there": [one_kernel(lambda _group, _path: None)],
    "two arrays kernel are of a layer x": [twice],
    "are no text": [numbers_for_names],
    "no layer in them has weights": [lambda path: h5py.File(path, "w").close()],
    "cannot be read as a Keras file": [
        truncated,
        archive(model__weights__h5=b"\x89HDF\r\n\x1a\n", config__json=b"{}"),
        archive(model__weights__h5=b"x"),
        archive(model__weights__h5=b"x", config__json=b"[" * 100_000),
    ],
    "are no file of Keras": [lambda path: path.write_bytes(b"nothing"), archive(other=b"x")],
}


@pytest.mark.parametrize(("said", "write"), [(said, write) for said, writes in HOSTILE.items() for write in writes])
def test_what_is_no_file_of_keras_is_refused_in_one_line(tmp_path, said, write):
    path = tmp_path / "a.h5"
    write(path)
    with pytest.raises(InputError, match=said) as caught:
        read_layers(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("write", "what"), [(keras_2, "the weights"), (keras_3, r"model\.weights\.h5")])
def test_weights_are_measured_together_before_they_are_read(tmp_path, monkeypatch, write, what):
    path = write(tmp_path / "a", some_layers())
    monkeypatch.setattr(keras_file, "_MOST_BYTES", 400)  # each array takes less, all take 468
    with pytest.raises(InputError, match=f"{what} would take"):
        read_layers(path)
    monkeypatch.setattr(keras_file, "_MOST_BYTES", 100_000)
    assert read_layers(path)


def test_models_inside_models_inside_models_cost_no_more(tmp_path):
    """Each level could be in either of two containers."""
    config = {"class_name": "Dense", "config": {"name": "last"}}
    for i in range(60):
        config = {"class_name": "Functional", "config": {"name": f"model_{i}", "layers": [config]}}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file[f"{'layers/functional/' * 59}layers/dense/vars/0"] = np.ones((2, 2), np.float32)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", content.getvalue())
    assert list(read_layers(tmp_path / "a.keras")) == ["last"]


# Networks, against a forward pass that is written from the papers and the names of the layers, in float64
def picture(side):
    """Colours that differ everywhere, (side, side, 3) uint8."""
    y, x = np.mgrid[:side, :side]
    return np.stack([(x * 3 + y) % 256, (x * y) % 256, (255 - y * 2) % 256], -1).astype(np.uint8)


class Arrays:
    """Layers of Keras that are made, from NumPy's generator, when they are first used, and compute in float64."""

    def __init__(self, epsilon, *, has_gamma=True):
        self.torch = pytest.importorskip("torch")
        self.rng, self.layers = np.random.default_rng(11), {}
        self.epsilon, self.has_gamma = epsilon, has_gamma

    def made(self, layer, **shapes):
        if layer not in self.layers:
            self.layers[layer] = {role: self.drawn(role, shape) for role, shape in shapes.items()}
        return {role: self.torch.from_numpy(array).double() for role, array in self.layers[layer].items()}

    def drawn(self, role, shape):
        noise = self.rng.standard_normal(shape)
        if role == "kernel":
            noise *= (2 / np.prod(shape[:-1])) ** 0.5
        elif role in ("gamma", "moving_variance"):
            noise = np.exp(0.3 * np.tanh(noise)) * (0.5 if role == "gamma" else 1)
        else:
            noise *= 0.1
        return noise.astype(np.float32)

    def conv(self, name, x, wide, size, stride=1, padding=0, *, bias=False):
        height, width = (size, size) if isinstance(size, int) else size
        shapes = {"kernel": (height, width, x.shape[1], wide)} | ({"bias": (wide,)} if bias else {})
        made = self.made(name, **shapes)
        kernel = made["kernel"].permute(3, 2, 0, 1)
        return self.torch.nn.functional.conv2d(x, kernel, made.get("bias"), stride=stride, padding=padding)

    def norm(self, name, x):
        roles = NORMALISATION if self.has_gamma else NORMALISATION[1:]
        made = self.made(name, **dict.fromkeys(roles, (x.shape[1],)))
        each = {role: array.reshape(1, -1, *[1] * (x.ndim - 2)) for role, array in made.items()}
        scaled = (x - each["moving_mean"]) / (each["moving_variance"] + self.epsilon).sqrt()
        return scaled * each.get("gamma", 1) + each["beta"]


def vggface(arrays, image, squeezed, *, padding, beyond):
    torch = arrays.torch
    bgr = image[..., ::-1] - np.array([91.4953, 103.8827, 131.0912])
    x = torch.from_numpy(np.pad(bgr, (padding, padding, (0, 0)))).permute(2, 0, 1)[None]
    x = arrays.norm("conv1/7x7_s2/bn", arrays.conv("conv1/7x7_s2", x, 64, 7, 2) / 100).relu()
    x = torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=beyond)
    for stage, n_blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in range(1, n_blocks + 1):
            name, wide = f"conv{stage}_{block}_", 16 << stage
            stride = 2 if block == 1 and stage > 2 else 1
            y = arrays.norm(f"{name}1x1_reduce/bn", arrays.conv(f"{name}1x1_reduce", x, wide, 1, stride)).relu()
            y = arrays.norm(f"{name}3x3/bn", arrays.conv(f"{name}3x3", y, wide, 3, 1, 1)).relu()
            y = arrays.norm(f"{name}1x1_increase/bn", arrays.conv(f"{name}1x1_increase", y, 4 * wide, 1))
            if squeezed:
                z = arrays.conv(f"{name}1x1_down", y.mean((2, 3), keepdim=True), wide // 4, 1, bias=True).relu()
                y = y * arrays.conv(f"{name}1x1_up", z, 4 * wide, 1, bias=True).sigmoid()
            if block == 1:
                x = arrays.norm(f"{name}1x1_proj/bn", arrays.conv(f"{name}1x1_proj", x, 4 * wide, 1, stride))
            x = (x + y).relu()
    return x.mean((0, 2, 3)).numpy()


def stem_divided(layers):
    """Return layers whose first convolution divides by 100, as `vggface` does: activations then stay near 1."""
    kernel = layers["conv1/7x7_s2"]["kernel"] / np.float32(100)
    return layers | {"conv1/7x7_s2": {"kernel": kernel}, "classifier": {"kernel": np.zeros((2048, 9), np.float32)}}


def as_state(layers):
    """Return the arrays of `vggface` under the names of cydonia999/VGGFace2-pytorch."""
    torch = pytest.importorskip("torch")
    parts = {
        "1x1_reduce": "conv1", "3x3": "conv2", "1x1_increase": "conv3", "1x1_down": "conv4", "1x1_up": "conv5",
        "1x1_proj": "downsample.0", "1x1_reduce/bn": "bn1", "3x3/bn": "bn2", "1x1_increase/bn": "bn3",
        "1x1_proj/bn": "downsample.1",
    }  # fmt: skip
    roles = {
        "kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias", "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }  # fmt: skip
    state = {}
    for layer, arrays in layers.items():
        if layer == "classifier":
            module = "fc"
        elif layer.startswith("conv1/"):
            module = "bn1" if layer.endswith("/bn") else "conv1"
        else:
            stage, block, part = layer.removeprefix("conv").split("_", 2)
            module = f"layer{int(stage) - 1}.{int(block) - 1}.{parts[part]}"
        for role, array in arrays.items():
            axes = (3, 2, 0, 1) if array.ndim == 4 else range(array.ndim)[::-1]
            state[f"{module}.{roles[role]}"] = torch.from_numpy(array.transpose(axes).copy())
    return state


@pytest.mark.parametrize("framework", ["keras", "pytorch"])
@pytest.mark.parametrize(("name", "epsilon"), [("vggface_resnet50", 1e-3), ("vggface_senet50", 1e-4)])
def test_vggface_computes_as_the_framework_of_its_weights(tmp_path, name, epsilon, framework):
    """Both were compared with keras-vggface 0.6 itself and the same weights: they differ by less than 1e-6."""
    image, is_keras, path = picture(224), framework == "keras", tmp_path / "weights"
    arrays = Arrays(epsilon if is_keras else 1e-5)
    # Keras pads so that the last window ends at the edge, and pools within it; Caffe pads alike and pools beyond it.
    padding = (2, 3) if is_keras else (3, 3)
    expected = vggface(arrays, image, name == "vggface_senet50", padding=padding, beyond=not is_keras)
    layers = stem_divided(arrays.layers)
    if is_keras:
        keras_2(path, layers)
    else:
        arrays.torch.save(as_state(layers), path)
    found = make_embedder(name, weights=path, accept_licence=True)([image])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * expected.max())


def inception(arrays, x, dimensions):
    torch = arrays.torch

    def conv(name, x, wide, size, stride=1, padding=0):
        return arrays.norm(f"{name}_BatchNorm", arrays.conv(name, x, wide, size, stride, padding)).relu()

    def chain(name, x, *steps):
        for step, wide, size, stride, padding in steps:
            x = conv(f"{name}_Conv2d_{step}", x, wide, size, stride, padding)
        return x

    def residual(name, x, scale, *branches):
        mixed = [chain(f"{name}_Branch_{i}", x, *steps) for i, steps in enumerate(branches)]
        return x + scale * arrays.conv(f"{name}_Conv2d_1x1", torch.cat(mixed, 1), x.shape[1], 1, bias=True)

    def reduction(name, x, *branches):
        mixed = [chain(f"{name}_Branch_{i}", x, *steps) for i, steps in enumerate(branches)]
        return torch.cat([*mixed, torch.nn.functional.max_pool2d(x, 3, 2)], 1)

    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, 32, 3, 2), 32, 3)
    x = torch.nn.functional.max_pool2d(conv("Conv2d_2b_3x3", x, 64, 3, 1, 1), 3, 2)
    x = conv("Conv2d_4b_3x3", conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x, 80, 1), 192, 3), 256, 3, 2)
    a, b, c = ("0a_1x1", 32, 1, 1, 0), ("0b_3x3", 32, 3, 1, 1), ("0c_3x3", 32, 3, 1, 1)
    for i in range(1, 6):
        x = residual(f"Block35_{i}", x, 0.17, [("1x1", 32, 1, 1, 0)], [a, b], [a, b, c]).relu()
    last = ("1a_3x3", 256, 3, 2, 0)
    x = reduction("Mixed_6a", x, [("1a_3x3", 384, 3, 2, 0)], [("0a_1x1", 192, 1, 1, 0), ("0b_3x3", 192, 3, 1, 1), last])
    a, b, c = ("0a_1x1", 128, 1, 1, 0), ("0b_1x7", 128, (1, 7), 1, (0, 3)), ("0c_7x1", 128, (7, 1), 1, (3, 0))
    for i in range(1, 11):
        x = residual(f"Block17_{i}", x, 0.1, [("1x1", 128, 1, 1, 0)], [a, b, c]).relu()
    a = ("0a_1x1", 256, 1, 1, 0)
    x = reduction("Mixed_7a", x, [a, ("1a_3x3", 384, 3, 2, 0)], [a, last], [a, ("0b_3x3", 256, 3, 1, 1), last])
    a, b, c = ("0a_1x1", 192, 1, 1, 0), ("0b_1x3", 192, (1, 3), 1, (0, 1)), ("0c_3x1", 192, (3, 1), 1, (1, 0))
    for i in range(1, 6):
        x = residual(f"Block8_{i}", x, 0.2, [("1x1", 192, 1, 1, 0)], [a, b, c]).relu()
    x = residual("Block8_6", x, 1, [("1x1", 192, 1, 1, 0)], [a, b, c]).mean((2, 3))
    x = x @ arrays.made("Bottleneck", kernel=(x.shape[1], dimensions))["kernel"]
    x = arrays.norm("Bottleneck_BatchNorm", x)[0].numpy()
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("dimensions", [128, 512])
def test_inception_resnet_v1_of_keras(tmp_path, dimensions):
    """Both were compared with the network in TensorFlow and the same weights: they differ by less than 1e-6."""
    image = picture(160).astype(np.float64)
    seen = (image - image.mean()) / image.std() if dimensions == 128 else (image - 127.5) / 128
    arrays = Arrays(1e-3, has_gamma=False)
    expected = inception(arrays, arrays.torch.from_numpy(seen).permute(2, 0, 1)[None], dimensions)
    path = keras_2(tmp_path / "facenet.h5", arrays.layers)
    embedder = make_embedder("inception_resnet_v1", weights=path, accept_licence=True)
    assert embedder.dimensions == dimensions
    np.testing.assert_allclose(embedder([picture(160)])[0], expected, atol=1e-5 * np.abs(expected).max())
    assert np.isfinite(embedder([np.full((160, 160, 3), 9, np.uint8)])).all()


def test_weights_of_another_network_say_how_they_differ(tmp_path):
    pytest.importorskip("torch")
    path = keras_2(tmp_path / "a.h5", some_layers() | {"classifier": {"kernel": np.ones((2, 2), np.float32)}})
    with pytest.raises(InputError) as caught:
        make_embedder("vggface_resnet50", weights=path, accept_licence=True)
    said = str(caught.value)
    assert "\n" not in said
    assert "not those of vggface_resnet50: conv2_1_1x1_reduce/kernel, conv2_1_1x1_reduce/bn/gamma" in said
    assert "more missing; conv1/7x7_s2/bias, head/kernel, head/bias unknown" in said
    assert "conv1/7x7_s2/kernel is 3 x 3 x 2 x 4, not 7 x 7 x 3 x 64" in said
    assert "classifier" not in said


@pytest.mark.parametrize("squeezed", [False, True])
def test_the_two_vggface_networks_do_not_take_each_others_weights(tmp_path, squeezed):
    torch = pytest.importorskip("torch")
    from toolkit.faces.models.vggface import FROM_PYTORCH, VggFace

    torch.save(VggFace(FROM_PYTORCH, squeezed=squeezed).state_dict(), tmp_path / "a.pt")
    other = "vggface_resnet50" if squeezed else "vggface_senet50"
    difference = "unknown" if squeezed else "missing"
    with pytest.raises(InputError, match=rf"layer1\.0\.conv4\.weight.* {difference}"):
        make_embedder(other, weights=tmp_path / "a.pt", accept_licence=True)


# ArcFace
def arcface(path, *, side=112, dimensions=512):
    """Write a network: the means of 4 x 4 windows, and products of them; return the products."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    products = np.random.default_rng(0).standard_normal((48, dimensions)).astype(np.float32)
    window = [side // 4] * 2
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=window, strides=window),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "products"], ["descriptor"]),
        ],
        "arcface",
        [helper.make_tensor_value_info("image", number, ["n", 3, side, side])],
        [helper.make_tensor_value_info("descriptor", number, ["n", dimensions])],
        [onnx.numpy_helper.from_array(products, "products")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 9
    onnx.save(model, path)
    return products


def test_arcface_onnx_is_an_onnx_file_with_the_preprocessing_of_arcface(tmp_path):
    products = arcface(tmp_path / "w600k.onnx")
    image = picture(112)
    means = image.reshape(4, 28, 4, 28, 3).astype(np.float64).mean((1, 3)).transpose(2, 0, 1).ravel()
    embedder = make_embedder("arcface-onnx", weights=tmp_path / "w600k.onnx", accept_licence=True)
    found = embedder([image])
    np.testing.assert_allclose(found[0], (means - 127.5) / 127.5 @ products, atol=1e-3)
    np.testing.assert_array_equal(found, make_embedder(f"onnx:{tmp_path / 'w600k.onnx'}")([image]))


def test_arcface_onnx_refuses_what_is_not_arcface(tmp_path):
    arcface(tmp_path / "large.onnx", side=224)
    arcface(tmp_path / "short.onnx", dimensions=128)
    arcface(tmp_path / "right.onnx")
    for said, file, options in (
        ("their input is 224 x 224, not 112 x 112", "large", {"accept_licence": True}),
        ("they make 128 numbers, not 512", "short", {"accept_licence": True}),
        ("not for commercial use", "right", {}),
        ("with onnx:PATH only", "right", {"accept_licence": True, "preprocessing": "none"}),
    ):
        with pytest.raises(InputError, match=said):
            make_embedder("arcface-onnx", weights=tmp_path / f"{file}.onnx", **options)


@pytest.mark.parametrize(
    ("landmarks", "margin", "warns"), [("arcface-5", 0, False), ("arcface-5", 0.25, True), ("dlib-5", 0, True)]
)
def test_faces_that_are_aligned_otherwise_are_told(tmp_path, capsys, landmarks, margin, warns):
    arcface(tmp_path / "right.onnx")
    faces = tmp_path / "faces"
    (faces / "crops").mkdir(parents=True)
    Image.fromarray(picture(112)).save(faces / "crops" / "a.png")
    (faces / "faces.csv").write_text("crop,aligned\ncrops/a.png,true\n")
    (faces / "faces.json").write_text(json.dumps({"job": {"landmarks": landmarks, "margin": margin}}))
    options = {"weights": tmp_path / "right.onnx", "accept_licence": True, "workers": 0, "device": "cpu"}
    embed_images(faces, tmp_path / "out", model="arcface-onnx", reporter=Reporter(), **options)
    assert ("aligned otherwise" in capsys.readouterr().err) == warns
    record = json.loads((tmp_path / "out" / "arcface-onnx.json").read_text())
    assert "--detector yunet --size 112 --margin 0" in record["preprocessing"]


def test_the_table_lists_every_model():
    result = CliRunner().invoke(app, ["faces", "models"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == list(MODELS)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    needs = {line.split("`")[1] for line in lines[2:] if "`--accept-licence`" in line}
    assert needs == {name for name, card in MODELS.items() if card.non_commercial}

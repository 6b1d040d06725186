"""Weights in files of Keras, read without Keras: HDF5 of Keras 1 and 2, and the two formats of Keras 3.

Keras 1 and 2 (``.h5``, ``.hdf5``): the attribute ``layer_names`` lists groups, of which each lists its arrays in
``weight_names``; a whole model has all that in a group ``model_weights``. Keras 3 (``.weights.h5``): groups
``layers/NAME/vars`` with arrays 0, 1, ...; ``.keras`` is a zip archive of such a file and of the configuration of the
model. Only names and numbers are read; nothing that a file describes is made or run.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py

Layers = dict[str, dict[str, np.ndarray]]

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"  # of a zip archive
_WHOLE = "model_weights"  # the group of a whole model of Keras 1 or 2
_MOST_BYTES = 4 << 30  # of all weights together
_MOST_TEXT_BYTES = 64 << 20
_NUMBER = re.compile(r"_\d+$")  # that TensorFlow puts behind a name that is there already
_OLD_ROLE = re.compile(r"(?:.*_)?(W|b|gamma|beta|running_mean|running_std)")  # Keras 1: conv_W, of a layer conv
_OLD_ROLES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
_NUMBERED = re.compile(r"(?P<layer>.+)/vars/(?P<number>\d+)")
_NO_LAYERS = ("optimizer/", "metrics/")  # of Keras 3, beside the layers
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_DEPTHWISE, _NORMALISATION = "depthwise_conv2d", "batch_normalization"
_ROLES = {  # the order of the arrays of Keras 3, by the kind of the layer
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    _DEPTHWISE: ("depthwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
}
_STATISTICS = ("moving_mean", "moving_variance")


def is_keras_file(path: Path) -> bool:
    """Whether a file is HDF5, or a ``.keras`` archive."""
    import h5py

    if h5py.is_hdf5(path):
        return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _WEIGHTS in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def read_layers(path: Path) -> Layers:
    """Read the weights of a Keras model.

    Parameters
    ----------
    path : Path
        ``.h5`` or ``.hdf5`` with weights or a whole model, ``.weights.h5``, ``.keras``; what is inside decides.

    Returns
    -------
    dict of str to dict of str to ndarray of float32
        For each layer that has weights, in the order of the file: its arrays by what they are, ``kernel``,
        ``depthwise_kernel``, ``pointwise_kernel``, ``bias``, ``gamma``, ``beta``, ``moving_mean``,
        ``moving_variance``, shaped as Keras has them (kernel: height, width, channels in, channels out). The layers
        of a model inside the model stand for themselves. An array of Keras 3 of which the file does not say what it
        is has its number: ``0``. Arrays of whole numbers, which count or are seeds, are left out.

    Raises
    ------
    InputError
        If the file is damaged, none of these, larger than 4 GiB of weights, or refers to other files.
    """
    import h5py

    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return _layers(file, None)
        if is_keras_file(path):
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(_member(archive, _WEIGHTS, _MOST_BYTES))
                config = json.loads(_member(archive, _CONFIG, _MOST_TEXT_BYTES))
            with h5py.File(content, "r") as file:
                return _layers(file, config)
    except InputError as error:
        raise InputError(f"weights {path}: {error}") from error
    except Exception as error:  # HDF5 and zip raise nearly anything on damaged data
        reason = one_line(error)
        raise InputError(f"weights {path} cannot be read as a Keras file: {reason}; give a whole one") from error
    raise InputError(f"weights {path} are no file of Keras; allowed: HDF5 (.h5, .weights.h5) or .keras")


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    info = archive.getinfo(name)
    _check_size(info.file_size, most_bytes, name)
    with archive.open(info) as member:  # which gives no more than it claims to have
        return member.read()


def _layers(file: h5py.File, config: Any) -> Layers:
    whole = _WHOLE in file
    group = _item(file, _WHOLE) if whole else file
    if "layer_names" in group.attrs or "layer_names0" in group.attrs:
        if whole and "model_config" in file.attrs:
            config = json.loads(_texts(file, "model_config")[0])
        found = list(_named(group, dict(_configured(config))))
    else:
        found = list(_numbered(file, dict(_configured(config))))
    if not found:
        raise InputError("no layer in them has weights; allowed: weights or a model saved by Keras")
    _check_size(sum(4 * prod(array.shape) for *_, array in found), _MOST_BYTES, "the weights")
    layers: Layers = {}
    for layer, role, array in found:
        values = layers.setdefault(layer, {})
        if role in values:
            raise InputError(f"two arrays {role} are of a layer {layer}; give a model whose layers differ in name")
        values[role] = np.ascontiguousarray(array[()], np.float32)
    return layers


# Keras 1 and 2
def _named(group: h5py.Group, config: dict[str, Any]) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Yield (layer, what it is, array) as the names of the arrays say."""
    kinds = {_name(entry): _kind(entry) for entry in config.values()}
    models = {_name(entry) for entry in config.values() if _inside(entry)}
    for name in _listed(group, "layer_names"):
        inside = _item(group, name)
        weights = _listed(inside, "weight_names")
        layers = {weight: weight.removesuffix(":0").rpartition("/")[0] for weight in weights}
        is_one = len(set(layers.values())) == 1 and name not in models
        for weight in weights:
            layer = layers[weight]
            if not layer or (is_one and (name in kinds or _is_named(layer, name))):
                layer = name
            layer = layer.removeprefix(f"{name}/")
            role = _role(weight)
            if role == "kernel" and kinds.get(layer) == _DEPTHWISE:  # Keras 3 in the old format
                role = "depthwise_kernel"
            array = _array(inside, weight)
            if array is not None:
                yield layer, role, array


def _is_named(layer: str, name: str) -> bool:
    """Whether arrays of `layer` are those of the group `name`, whatever TensorFlow put before or behind it."""
    return f"/{_NUMBER.sub('', layer)}".endswith(f"/{_NUMBER.sub('', name)}")


def _role(weight: str) -> str:
    """Return what an array is: ``conv1/kernel_1:0`` is a kernel, ``conv1_W:0`` too."""
    last = _NUMBER.sub("", weight.removesuffix(":0").rpartition("/")[2])
    old = _OLD_ROLE.fullmatch(last)
    return _OLD_ROLES.get(old[1], old[1]) if old else last


def _listed(group: h5py.Group, name: str) -> list[str]:
    """Return the names in an attribute, which Keras parts in ``name0``, ``name1``, ... if they are many."""
    if name in group.attrs:
        return _texts(group, name)
    names: list[str] = []
    i = 0
    while f"{name}{i}" in group.attrs:
        names += _texts(group, f"{name}{i}")
        i += 1
    return names


def _texts(group: h5py.Group, name: str) -> list[str]:
    stored = group.attrs.get_id(name)
    _check_size(stored.dtype.itemsize * prod(stored.shape or ()), _MOST_TEXT_BYTES, name)
    found = np.atleast_1d(np.asarray(group.attrs[name])).ravel().tolist()
    texts = [text.decode() if isinstance(text, bytes) else text for text in found]
    if not all(isinstance(text, str) for text in texts):
        raise InputError("names of layers in them are no text; give a file that Keras saved")
    return texts


# Keras 3
def _numbered(file: h5py.File, config: dict[str, Any]) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Yield (layer, what it is, array) as the kind of a layer and the numbers of its arrays say."""
    names: list[str] = []
    file.visititems(lambda name, _: names.append(name))  # each object once, and no links
    found = [match for match in map(_NUMBERED.fullmatch, names) if match and not match[0].startswith(_NO_LAYERS)]
    n_arrays = Counter(match["layer"] for match in found)
    for match in sorted(found, key=lambda match: int(match["number"])):  # of each layer in their order
        array = _array(file, match[0])
        if array is None:
            continue
        path = "/".join(part for part in match["layer"].split("/") if part not in _CONTAINERS)
        entry, number = config.get(path), int(match["number"])
        said = "".join(_listed(_item(file, f"{match['layer']}/vars"), "name"))
        kind = _NUMBER.sub("", path.rpartition("/")[2])
        roles = _roles(kind, n_arrays[match["layer"]], entry)
        yield (_name(entry) if entry else said) or path, roles[number] if number < len(roles) else str(number), array


def _roles(kind: str, n_arrays: int, entry: Any) -> tuple[str, ...]:
    """Return what the arrays of a layer are, in their order; empty if the file does not say."""
    if kind != _NORMALISATION:
        return _ROLES.get(kind, ())
    if entry:
        has = {"gamma": entry["config"].get("scale", True), "beta": entry["config"].get("center", True)}
        return (*(role for role, there in has.items() if there), *_STATISTICS)
    return {4: ("gamma", "beta", *_STATISTICS), 2: _STATISTICS}.get(n_arrays, ())


def _configured(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path in a file of Keras 3, configuration) of each layer: KIND_NUMBER, numbered by kind in each model."""
    counts: Counter[str] = Counter()
    for entry in _inside(config) if config else ():
        kind = _kind(entry)
        inside = f"{path}{kind}{f'_{counts[kind]}' if counts[kind] else ''}"
        counts[kind] += 1
        yield inside, entry
        yield from _configured(entry, f"{inside}/")


def _inside(entry: Any) -> Any:
    """Return the layers of a model; of a layer there are none."""
    config = entry["config"]
    return config if isinstance(config, list) else config.get("layers", ())  # a list: Sequential of Keras 1


def _name(entry: Any) -> str:
    config = entry["config"]
    return str((entry if isinstance(config, list) else config).get("name", ""))


def _kind(entry: Any) -> str:
    """Return the kind of a layer as Keras 3 writes it: ``batch_normalization``."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", entry["class_name"]))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


# What is inside
def _item(group: h5py.Group, name: str) -> Any:
    """Return what is in a group; links could lead anywhere, into other files too."""
    import h5py

    for part in filter(None, name.split("/")):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise InputError(f"{name!r} is listed and not there; give a whole file")
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{name!r} is a link; store it in the file itself")
        group = group[part]
    return group


def _array(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return an array of real numbers, or None for one of whole numbers."""
    import h5py

    found = _item(group, name)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu" or found.shape is None:
        raise InputError(f"{name!r} is no array of numbers; give a file that Keras saved")
    if found.external or found.is_virtual:
        raise InputError(f"{name!r} lies in other files; store it in the file itself")
    if found.dtype.kind != "f":
        return None
    _check_size(found.dtype.itemsize * prod(found.shape), _MOST_BYTES, repr(name))
    if found.size and not found.id.get_storage_size():
        raise InputError(f"{name!r} was never filled; give a whole file")
    return found


def _check_size(n_bytes: int, most_bytes: int, what: str) -> None:
    if n_bytes > most_bytes:
        raise InputError(
            f"{what} would take {n_bytes / (1 << 30):,.1f} GiB; allowed: {most_bytes / (1 << 30):g} GiB; give the "
            f"weights of one network"
        )

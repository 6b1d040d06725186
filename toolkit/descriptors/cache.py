"""Results kept on disk under the content and parameters they were computed from."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import xxhash

from toolkit.atomic import atomic_folder, remove_unfinished, write_text
from toolkit.backend.cpu import ordered_map
from toolkit.memory import n_threads
from toolkit.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIECE_BYTES = 1 << 22


def digest(*parts: object) -> str:
    """Return a 128-bit name (32 hex digits) for parameters, given as anything that JSON can write."""
    return str(xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode()))


def file_digest(path: Path, reporter: Reporter | None = None) -> str:
    """Return 32 hex digits that stand for a file's bytes: the 128-bit xxh3 of the xxh3 of each of its pieces."""
    reporter = reporter or Reporter(quiet=True)
    size = path.stat().st_size
    whole = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:

        def digest_piece(start: int) -> bytes:
            return bytes(xxhash.xxh3_128_digest(os.pread(file.fileno(), _PIECE_BYTES, start)))

        pieces = ordered_map(
            digest_piece, range(0, size, _PIECE_BYTES), workers=n_threads() if size > _PIECE_BYTES else 0
        )
        for piece in reporter.watch(f"{path.name}: content hash", pieces, lambda _: _PIECE_BYTES, size):
            whole.update(piece)
    return str(whole.hexdigest())


class Cache:
    """A folder of finished results: ``KIND-KEY/`` with arrays and a manifest, there whole or not at all.

    Parameters
    ----------
    folder : path
        Made if it is missing. What a killed process left unfinished in it is removed.
    reporter : Reporter, optional
        Where the progress of hashing is shown.
    """

    def __init__(self, folder: Path, reporter: Reporter | None = None) -> None:
        self.reporter = reporter or Reporter(quiet=True)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder)
        self._known_files = self.folder / "files.json"

    def fingerprint(self, path: Path) -> str:
        """Return the digest of a file's content; the file is read again only if its size or time changed."""
        path = path.resolve()
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = _read_json(self._known_files)
        entry = known.get(str(path))
        if not isinstance(entry, dict) or entry.get("stamp") != stamp or "xxh3_128" not in entry:
            entry = known[str(path)] = {"stamp": stamp, "xxh3_128": file_digest(path, self.reporter)}
            write_text(self._known_files, json.dumps(known, indent=1))
        return str(entry["xxh3_128"])

    def get(self, kind: str, key: str, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
        """Return the folder and manifest of an entry; `make` fills a new one and returns its manifest.

        An entry whose files are not to the bit those that were written (a disk that lost power) is made again. What
        another process is making is waited for.
        """
        folder = self.folder / f"{kind}-{key}"
        content = self._read_entry(folder)
        if content is None:
            with self._making(folder.name):
                content = self._read_entry(folder)
                if content is None:
                    shutil.rmtree(folder, ignore_errors=True)
                    content = self._make(folder, make)
        return folder, content

    @staticmethod
    def _make(folder: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        with atomic_folder(folder) as unfinished:
            content = make(unfinished)
            files = {path.name: file_digest(path) for path in sorted(unfinished.iterdir())}
            write_text(unfinished / "entry.json", json.dumps({"content": content, "files": files}, indent=1))
        return content

    @contextlib.contextmanager
    def _making(self, name: str) -> Iterator[None]:
        """Make an entry alone among processes; where files cannot be locked, two make the same, and one is kept."""
        with (self.folder / f".{name}.lock").open("ab") as file:
            with contextlib.suppress(OSError):
                fcntl.lockf(file, fcntl.LOCK_EX)  # of the process: one that makes an entry twice does not wait for ever
            yield

    @staticmethod
    def _read_entry(folder: Path) -> dict[str, Any] | None:
        manifest = _read_json(folder / "entry.json")
        content, files = manifest.get("content"), manifest.get("files")
        if not isinstance(content, dict) or not isinstance(files, dict):
            return None
        try:
            whole = all(file_digest(folder / name) == known for name, known in files.items())
        except OSError:
            return None
        return content if whole else None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; what is missing or damaged counts as empty."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_npy_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write the head of an .npy file whose numbers follow in C order."""
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def save_arrays(folder: Path, **arrays: np.ndarray) -> None:
    """Write each array as ``NAME.npy`` (through Python, whose errors say that the disk is full; NumPy's do not)."""
    for name, array in arrays.items():
        with (folder / f"{name}.npy").open("wb") as file:
            write_npy_header(file, array.shape, array.dtype)
            file.write(np.ascontiguousarray(array).data)


def load_arrays(folder: Path, *names: str) -> list[np.ndarray]:
    """Read arrays that `save_arrays` wrote."""
    return [np.load(folder / f"{name}.npy", allow_pickle=False) for name in names]

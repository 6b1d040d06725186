"""Finished models on disk: one parquet file per commit, whole or not at all."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from toolkit.atomic import atomic_file, remove_unfinished
from toolkit.descriptors.cache import digest
from toolkit.errors import unknown

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.grid.plan import Cell

_ROWS, _CENTRES = b"toolkit.rows", b"toolkit.centres"


class Store:
    """Scores and labels of the models that are finished.

    A file holds one label column per model, of the smallest integer type, compressed; the models' scores as JSON and,
    base64-encoded, the centres of those that have some are in its metadata. The file's name ends in the digest of its
    content: a file that is not what was written counts as not there, and its models are fitted again.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("*.parquet")):
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            if xxhash.xxh3_128_hexdigest(path.read_bytes()) != path.stem.rsplit("-", 1)[-1]:
                return
            rows = json.loads(pq.read_schema(path).metadata[_ROWS])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
            return
        for model, row in rows.items():
            self.rows[model] = row
            self._files[model] = path

    def prepare(self) -> None:
        """Make the folder and remove what a killed run left unfinished; for the process that writes."""
        self.folder.mkdir(exist_ok=True)
        remove_unfinished(self.folder)

    def commit(
        self,
        results: dict[str, tuple[dict[str, Any], np.ndarray]],
        centres: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Keep models: model id -> (scores, labels (n_rows,) int), all equally long; and the centres of some."""
        columns = {model: labels.astype(_smallest_type(labels)) for model, (_, labels) in results.items()}
        rows = {model: row for model, (row, _) in results.items()}
        kept = {model: [base64.b64encode(one.tobytes()).decode(), *one.shape] for model, one in (centres or {}).items()}
        metadata = {_ROWS: json.dumps(rows).encode(), _CENTRES: json.dumps(kept).encode()}
        table = pa.table(columns).replace_schema_metadata(metadata)
        content = io.BytesIO()  # so that a full disk is Python's own error, with its number
        pq.write_table(table, content, compression="zstd")
        path = self.folder / f"{digest(sorted(results))}-{xxhash.xxh3_128_hexdigest(content.getbuffer())}.parquet"
        with atomic_file(path) as file:
            file.write(content.getbuffer())
        for model, row in rows.items():
            self.rows[model], self._files[model] = row, path

    def row_of(self, cell: Cell, model: str) -> dict[str, Any]:
        """Return the row of a cell in a score table; without scores if the model is not there."""
        what = {
            "descriptor": cell.sample.descriptor,
            "scaler": cell.scaler,
            "cluster_class": cell.cluster_class,
            "cluster_class_params": dict(cell.params),
            "model": model,
        }
        return what | self.rows.get(model, {})

    def labels(self, model: str) -> np.ndarray:
        """Return the labels of a model, (n_rows,) of a signed integer type."""
        return np.asarray(pq.read_table(self._file(model), columns=[model]).column(0).to_numpy())

    def centres(self, model: str) -> np.ndarray | None:
        """Return the centres of a model, (n_clusters, n_components) float64, or None if it has none."""
        kept = json.loads(pq.read_schema(self._file(model)).metadata[_CENTRES]).get(model)
        return kept and np.frombuffer(base64.b64decode(kept[0]), np.float64).reshape(kept[1:])

    def _file(self, model: str) -> Path:
        if model not in self._files:
            raise unknown("model", model, self._files)
        return self._files[model]


def _smallest_type(labels: np.ndarray) -> np.dtype[Any]:
    return np.result_type(np.min_scalar_type(-1), np.min_scalar_type(-int(labels.max(initial=0)) - 1))

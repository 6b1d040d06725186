"""Stand-ins for real descriptors: heavy-tailed, of low effective rank, ReLU-like, after PCA and MinMaxScaler."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler

_LATENT, _RAW = 60, 512


def reduced_descriptors(n_rows: int, n_components: int = 150, *, n_clusters: int = 0, seed: int = 0) -> np.ndarray:
    """Return (n_rows, n_components) float32 in [0, 1] by column.

    A network's last layer is imitated by a random ReLU layer over latent variables with Student tails and falling
    scales; with clusters, the latent variables have as many centres.
    """
    rng = np.random.default_rng(seed)
    scales = np.arange(1, _LATENT + 1) ** -0.7
    mixing = rng.standard_normal((_LATENT, _RAW), dtype=np.float32)
    centres = 2.0 * rng.standard_normal((max(n_clusters, 1), _LATENT)) * scales
    blocks = []
    for start in range(0, n_rows, 20_000):
        n = min(20_000, n_rows - start)
        latent = rng.standard_t(4, (n, _LATENT)) * scales
        if n_clusters:
            latent += centres[rng.integers(0, n_clusters, n)]
        noise = 0.2 * rng.standard_normal((n, _RAW), dtype=np.float32)
        blocks.append(np.maximum(latent.astype(np.float32) @ mixing + noise, 0))
    raw = np.concatenate(blocks)
    fitted = PCA(n_components, svd_solver="covariance_eigh").fit(raw[:50_000])
    return MinMaxScaler().fit_transform(fitted.transform(raw)).astype(np.float32)

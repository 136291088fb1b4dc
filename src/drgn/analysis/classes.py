"""Classes of any shape in the latents: for states that move, whose clouds are long and bent."""

from __future__ import annotations

import numpy as np

from drgn.analysis.clusters import Clusters, ordered, responsibilities
from drgn.analysis.embedding import umap

CERTAIN = 1e-3  # nats per particle; two groups less confused than this are separate, and only distance counts


def find_classes(z: np.ndarray, n: int, seed: int, flat: np.ndarray | None = None) -> Clusters:
    """Part the particles into n classes.

    k-means or n Gaussians would cut a bent cloud across. So a mixture of Gaussians on the UMAP of the latents
    (the paper compares replicates by one, P22), of n, 2n, 4n or 8n components as the Bayesian information
    criterion prefers, is merged pair by pair into n classes: first the pair whose particles are least
    certainly told apart (the entropy criterion of Baudry et al., J. Comput. Graph. Stat. 19, 332, 2010), and
    when all are told apart, because UMAP broke a thin cloud into islands, the pair nearest in the latents.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    n
        Number of classes.
    seed
        The same seed gives the same classes.
    flat
        (N, 2) the UMAP, where it has been made already with this seed.
    """
    flat = umap(z, seed).coordinates if flat is None else flat
    share = responsibilities(flat, seed, [n, 2 * n, 4 * n, 8 * n])  # (N, components)
    while share.shape[1] > n:
        pairs = [(i, j) for i in range(share.shape[1]) for j in range(i)]
        entropy = _entropy(share)
        gains = [entropy[i] + entropy[j] - _entropy(share[:, i] + share[:, j]) for i, j in pairs]
        if max(gains) < CERTAIN:
            labels = share.argmax(axis=1)
            gains = [-_gap(z[labels == i], z[labels == j]) for i, j in pairs]
        i, j = pairs[int(np.argmax(gains))]
        share[:, j] += share[:, i]
        share = np.delete(share, i, axis=1)
    return ordered(z, share.argmax(axis=1))


def _entropy(share: np.ndarray) -> np.ndarray:
    """Mean of -p log p over the particles, for each component."""
    return -(share * np.log(np.maximum(share, 1e-300))).mean(axis=0)


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    """Distance between two groups: the fifth shortest from a particle of one to its nearest in the other."""
    from scipy.spatial import cKDTree

    if not len(a) or not len(b):
        return 0.0  # a component without particles may go to any
    distances = (np.sort(cKDTree(y).query(x)[0]) for x, y in ((a, b), (b, a)))
    return float(max(d[min(4, len(d) - 1)] for d in distances))

"""Clusters of users by their weights: k-means, small and seeded.

U users, K prototypes, C clusters.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESTARTS = 20
MOST_STEPS = 300


class Clusters(NamedTuple):
    """Where users stand together."""

    centers: NDArray[np.float64]  # [C, K] mean weights, so on the simplex; the largest first
    cluster: NDArray[np.int64]  # [U]
    spread: float  # Σ_u ‖w_u - centre‖²


def k_means(weights: NDArray[np.floating], num_clusters: int, *, seed: int = 0) -> Clusters:
    """Cluster users so that the squared distances to their cluster's mean are small.

    Args:
        weights: Users' weights [U, K].
        num_clusters: C, at most the number of distinct rows.
        seed: Of the starting centres; the best of 20 starts is taken.

    Returns:
        Clusters without an empty one, by falling size.

    Raises:
        ValueError: If there are fewer distinct rows than clusters.

    Source:
        Lloyd (1982); starts by Arthur and Vassilvitskii (2007), k-means++.
    """
    points = np.asarray(weights, np.float64)
    distinct = len(np.unique(points, axis=0))
    if not 1 <= num_clusters <= distinct:
        raise ValueError(f"wanted 1 to {distinct} clusters of distinct rows, got {num_clusters}")
    generator = np.random.default_rng(seed)
    found = [_lloyd(points, _start(points, num_clusters, generator)) for _ in range(RESTARTS)]
    best = min(found, key=lambda clusters: clusters.spread)
    order = np.argsort(-np.bincount(best.cluster, minlength=num_clusters), kind="stable")
    return Clusters(best.centers[order], np.argsort(order)[best.cluster], best.spread)


def _start(
    points: NDArray[np.float64], num_clusters: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Each next centre is a point drawn by its squared distance to the nearest one so far."""
    centers = [points[generator.integers(len(points))]]
    while len(centers) < num_clusters:
        nearest = _squared_distances(points, np.array(centers)).min(axis=1)
        centers.append(points[generator.choice(len(points), p=nearest / nearest.sum())])
    return np.array(centers)


def _lloyd(points: NDArray[np.float64], centers: NDArray[np.float64]) -> Clusters:
    cluster = np.full(len(points), -1)
    for _ in range(MOST_STEPS):
        distances = _squared_distances(points, centers)
        nearest = distances.argmin(axis=1)
        for empty in np.setdiff1d(np.arange(len(centers)), nearest):
            # The farthest point that is not alone starts the empty cluster anew.
            alone = np.bincount(nearest, minlength=len(centers))[nearest] == 1
            own = np.where(alone, -1, distances[np.arange(len(points)), nearest])
            nearest[own.argmax()] = empty
        if np.array_equal(nearest, cluster):
            break
        cluster = nearest
        centers = np.array([points[cluster == c].mean(axis=0) for c in range(len(centers))])
    return Clusters(centers, cluster, float(((points - centers[cluster]) ** 2).sum()))


def _squared_distances(
    points: NDArray[np.float64], centers: NDArray[np.float64]
) -> NDArray[np.float64]:
    differences = points[:, None, :] - centers[None, :, :]
    return np.asarray((differences**2).sum(axis=2))

"""A linear fit with a prior, for a handful of parameters: what two or three loads can tell, and no more.

Bayesian linear regression with known noise (Bishop, Pattern Recognition and Machine Learning, 3.49–3.51):
the posterior of the weights is normal, with precision ``S₀⁻¹ + Σ φφᵀ/σ²``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

Vector = tuple[float, ...]


class Row(msgspec.Struct, frozen=True):
    """One observation: features, the value seen, and how far it may be off (one standard deviation)."""

    features: Vector
    value: float
    sigma: float


class Fit(msgspec.Struct, frozen=True):
    """Weights with their covariance."""

    weights: Vector
    covariance: tuple[Vector, ...]

    def predict(self, features: Vector) -> tuple[float, float]:
        """Mean and variance of the value at some features, noise not counted."""
        mean = sum(weight * feature for weight, feature in zip(self.weights, features, strict=True))
        variance = sum(
            features[i] * self.covariance[i][j] * features[j]
            for i in range(len(features))
            for j in range(len(features))
        )
        return mean, max(variance, 0.0)


def fit(rows: Sequence[Row], mean: Vector, spread: Vector) -> Fit:
    """The posterior from a prior (mean and standard deviation of each weight) and observations."""
    size = len(mean)
    precision = [[1 / spread[i] ** 2 if i == j else 0.0 for j in range(size)] for i in range(size)]
    right = [mean[i] / spread[i] ** 2 for i in range(size)]
    for row in rows:
        for i in range(size):
            right[i] += row.features[i] * row.value / row.sigma**2
            for j in range(size):
                precision[i][j] += row.features[i] * row.features[j] / row.sigma**2
    covariance = _inverse(precision)
    weights = tuple(sum(covariance[i][j] * right[j] for j in range(size)) for i in range(size))
    return Fit(weights, tuple(tuple(line) for line in covariance))


def _inverse(matrix: list[list[float]]) -> list[list[float]]:
    """Gauss–Jordan with pivoting; the matrix is symmetric and positive by its prior."""
    size = len(matrix)
    work = [line[:] + [float(i == j) for j in range(size)] for i, line in enumerate(matrix)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(work[i][column]))
        work[column], work[pivot] = work[pivot], work[column]
        lead = work[column][column]
        work[column] = [value / lead for value in work[column]]
        for i in range(size):
            if i != column and work[i][column]:
                factor = work[i][column]
                work[i] = [a - factor * b for a, b in zip(work[i], work[column], strict=True)]
    return [line[size:] for line in work]

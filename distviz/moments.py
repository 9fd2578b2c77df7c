"""Count, mean and spread of values, merged without losing digits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of finite values; two of them add."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Merge by the pairwise update of Chan, Golub & LeVeque (1979)."""
        count = self.count + other.count
        if not self.count or not other.count:
            return other if other.count else self
        delta = other.mean - self.mean
        mean = (self.mean * self.count + other.mean * other.count) / count
        return Moments(
            count, mean, self.m2 + other.m2 + delta**2 * self.count * other.count / count
        )

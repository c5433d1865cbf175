"""One source of chance that several makers share."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Dice:
    """A generator, which may be replaced, and the questions that are asked of it."""

    rng: np.random.Generator

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        """Uniform."""
        return float(self.rng.uniform(low, high))

    def log_between(self, low: float, high: float) -> float:
        """Uniform in the logarithm."""
        return float(np.exp(self.between(np.log(low), np.log(high))))

"""Dual reward (METHOD 5): accuracy, closeness to the teacher, and the advantages of a group of responses.

A group is the responses to one question. Identical responses are kept once with their count, so every mean and standard
deviation here is weighted by it. Plain numpy in float64.
"""

import numpy as np


def distillation(divergences: np.ndarray) -> np.ndarray:
    """`R_distill = (D_max - D) / (D_max - D_min)` over a group `[responses]`; all 1 where D_max = D_min (ours)."""
    high, low = divergences.max(), divergences.min()
    if high == low:
        return np.ones_like(divergences)
    return (high - divergences) / (high - low)


def advantages(rewards: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`A_j = (R_j - mean(R)) / std(R)`, population standard deviation; 0 where it is 0 (ours).

    Args:
        rewards: `[responses]`, one per distinct response.
        counts: `[responses]`, how often each was drawn.
    """
    mean = np.average(rewards, weights=counts)
    deviation = np.sqrt(np.average((rewards - mean) ** 2, weights=counts))
    if deviation < 1e-12:
        return np.zeros_like(rewards, dtype=np.float64)
    return (rewards - mean) / deviation

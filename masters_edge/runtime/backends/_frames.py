"""Frames of a picture one at a time: all at once, their activations would take that many times the memory."""

from collections.abc import Iterator, Mapping

import numpy as np


def one_by_one(inputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The vision part's inputs, frame after frame where they are [1, frames, ...] (SmolVLM, Idefics3); whole otherwise.

    There a frame is seen without regard to the others, and features come frame after frame.
    """
    frames = inputs["pixel_values"].shape[1] if inputs["pixel_values"].ndim == 5 else 1
    for index in range(frames):
        yield dict(inputs) if frames == 1 else {name: array[:, index : index + 1] for name, array in inputs.items()}

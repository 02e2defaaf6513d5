"""A picture in frames is seen frame by frame, and what is seen is the same."""

import numpy as np
import pytest

from masters_edge.bundle import manifest as manifests
from masters_edge.runtime.backends import _frames
from masters_edge.runtime.opening import open_backend
from tests.export import bundles


def test_frames_come_in_order_and_the_rest_stays_whole() -> None:
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(1, 2, 3, 4, 4)
    mask = np.arange(2 * 4 * 4).reshape(1, 2, 4, 4) % 3 == 0
    found = list(_frames.one_by_one({"pixel_values": pixels, "pixel_attention_mask": mask}))
    assert [frame["pixel_values"].shape for frame in found] == [(1, 1, 3, 4, 4)] * 2
    for name, whole in (("pixel_values", pixels), ("pixel_attention_mask", mask)):
        assert np.array_equal(np.concatenate([frame[name] for frame in found], axis=1), whole)
    patches = {"pixel_values": np.zeros((8, 12), np.float32), "image_grid_thw": np.array([[1, 2, 4]])}
    [same] = _frames.one_by_one(patches)
    assert all(same[name] is array for name, array in patches.items())


@pytest.mark.wide
@pytest.mark.parametrize(("target", "name"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_one_frame_at_a_time_sees_what_all_at_once_sees(target: str, name: str, monkeypatch) -> None:
    folder = bundles.exported("idefics3", "fp32", True, target=target)
    backend = open_backend(name, target, folder, manifests.read(folder).graphs, 1, exact=True)
    pixels = np.random.default_rng(0).standard_normal((1, 5, 3, 32, 32)).astype(np.float32)
    mask = np.ones((1, 5, 32, 32), bool)
    mask[0, 3, 20:] = False
    inputs = {"pixel_values": pixels, "pixel_attention_mask": mask}
    found = backend.vision(inputs)
    for module in ("onnxruntime", "openvino"):
        monkeypatch.setattr(f"masters_edge.runtime.backends.{module}.one_by_one", lambda whole: [whole])
    expected = backend.vision(inputs)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()

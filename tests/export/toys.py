"""One small graph with every kind of weight, quantized by one scheme, to try a lowering on in a second."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from masters_edge.export.graphs import Part
from masters_edge.export.quantize import rtn
from masters_edge.export.quantize.weights import Weights
from masters_edge.quantization import by_part


class _Graph(nn.Module):
    """ids int64 [batch, tokens] -> float32 [batch, 64]: a table, a linear layer in three dimensions, one in two."""

    def __init__(self, misuse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 128)
        self.wide = nn.Linear(128, 256)
        self.norm = nn.LayerNorm(256)
        self.flat = nn.Linear(256, 64)
        self.misuse = misuse

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found = self.flat(self.norm(torch.relu(self.wide(self.table(ids)))).mean(dim=1))
        return found + self.wide.weight.sum() if self.misuse else found


class Toy:
    """`part` to lower, `weights` as `quantize` would give them, `graph` holding the integers' meaning."""

    def __init__(self, scheme: str, misuse: bool = False) -> None:
        torch.manual_seed(0)
        self.graph = _Graph(misuse).eval().requires_grad_(False)
        chosen = by_part.plan(scheme, {"embeddings": scheme})
        names, tensors, halved = ("table", "wide", "flat"), {}, set()
        for name in names:
            layer = self.graph.get_submodule(name)
            if chosen.parts["decoder"].bits:
                tensors[f"toy.{name}.weight"] = rtn.round_to_nearest(
                    f"toy.{name}.weight", layer.weight, chosen.parts["decoder"]
                )
                layer.weight.data = torch.from_numpy(tensors[f"toy.{name}.weight"].dequantize())
            elif chosen.parts["decoder"].float16:
                layer.weight.data = layer.weight.data.half().float()
                halved.add(f"toy.{name}.weight")
        self.weights = Weights(chosen, tensors, frozenset(halved), {}, "never", {})
        self.part = Part(
            name="toy",
            module=self.graph,
            example=(torch.ones(2, 5, dtype=torch.long),),
            dynamic=({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},),
            inputs=["ids"],
            outputs=["found"],
            dimensions={"ids": ["batch", "tokens"], "found": ["batch", 64]},
            prefixes={name: f"toy.{name}" for name in (*names, "norm")},
        )


def assert_computes(toy: Toy, path: Path, **settings: str) -> None:
    """ONNX Runtime computes what PyTorch does with the same integers."""
    options = ort.SessionOptions()
    for name, value in settings.items():
        options.add_session_config_entry(name.replace("__", "."), value)
    ids = torch.arange(21).reshape(3, 7)
    [found] = ort.InferenceSession(str(path), options).run(None, {"ids": ids.numpy()})
    expected = toy.graph(ids).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def assert_same_integers(weights: Weights, decoded: Iterable) -> None:
    """Integers and scales read from files are the records', bit for bit."""
    found = set()
    for name, integers, scales in decoded:
        record = weights.tensors[name]
        assert integers.dtype == np.int8 and np.array_equal(integers, record.integers), name
        assert scales.dtype == np.float32 and np.array_equal(scales, record.scales.astype(np.float32)), name
        found.add(name)
    assert found == set(weights.tensors)

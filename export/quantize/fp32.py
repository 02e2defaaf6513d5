"""No quantization: every weight stays float32."""

from torch import nn

from masters_edge.export.quantize import Quantized


def quantize(model: nn.Module, weights: dict[str, dict[str, nn.Linear]]) -> Quantized:
    """Leaves the model as it is."""
    return Quantized([], {part: "float32" for part in ("embeddings", *weights)})

"""Quantization schemes, one file each, and the neutral integer record that every target lowers.

A scheme's module makes `quantize(model, weights) -> Quantized`: it replaces the weights of the model by what the
integers mean in float32, so that PyTorch and every exported graph compute with the very same numbers.
`weights` maps the parts of the family (vision, connector, decoder, head) to the linear layers in each.
"""

from dataclasses import dataclass, field

from masters_edge.export.quantize.record import QuantizedTensor


@dataclass
class Quantized:
    """The records, and for the manifest: what each part became, which layers stayed float32 and why, remarks."""

    tensors: list[QuantizedTensor]
    parts: dict[str, str]
    kept_float32: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

"""Number formats of a part's weights, one entry each; a new scheme is one more line in `SCHEMES`.

A scheme says how many bits a weight has and how many neighbours along the input features share a scale. The integers
are torchao's: symmetric, rounded to nearest, with float16 scales. `-a8` schemes have the very same weight integers
(torchao's Int8DynamicActivationIntxWeightConfig computes the weight as IntxWeightOnlyConfig does) and tell the target
that activations may be quantized to int8 on the way. Nothing heavy is imported here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masters_edge.common import registry

if TYPE_CHECKING:
    from torchao.quantization import IntxWeightOnlyConfig


@dataclass(frozen=True)
class Scheme:
    """`bits` None: no integers. `group_size` None: one scale per output channel. `activations`: their bits, or None."""

    name: str
    bits: int | None = None
    group_size: int | None = None
    float16: bool = False
    activations: int | None = None

    @property
    def words(self) -> str:
        """What the manifest says of a part that has this scheme."""
        if self.bits is None:
            return "float16" if self.float16 else "float32"
        shared = f"groups of {self.group_size} along the input features" if self.group_size else "per output channel"
        dynamic = f", int{self.activations} dynamic activations" if self.activations else ""
        return f"int{self.bits}, {shared}, float16 scales{dynamic}"

    def group(self, in_features: int) -> int:
        """How many values share a scale in a weight of so many input features."""
        return self.group_size or in_features

    def fits(self, in_features: int) -> bool:
        """Whether whole groups fill the input features."""
        return self.bits is not None and in_features % self.group(in_features) == 0

    def torchao_config(self) -> "IntxWeightOnlyConfig":
        """torchao's configuration of the weights; only for schemes with integers."""
        import torch
        from torchao.quantization import IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerAxis, PerGroup
        from torchao.quantization.quant_primitives import MappingType

        if self.bits is None:
            raise ValueError(f"{self.name} has no integers")
        return IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{self.bits}"),
            granularity=PerGroup(self.group_size) if self.group_size else PerAxis(0),
            mapping_type=MappingType.SYMMETRIC,
            scale_dtype=torch.float16,
        )


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32"),
        Scheme("fp16", float16=True),
        Scheme("int8", bits=8),
        Scheme("int4", bits=4, group_size=32),
        Scheme("int4-g64", bits=4, group_size=64),
        Scheme("int4-g128", bits=4, group_size=128),
        Scheme("int8-a8", bits=8, activations=8),
        Scheme("int4-a8", bits=4, group_size=32, activations=8),
    )
}


def scheme(name: str) -> Scheme:
    """The scheme called `name`; raises UserError with the nearest name where there is none."""
    registry.check(name, "quantization scheme", SCHEMES)
    return SCHEMES[name]

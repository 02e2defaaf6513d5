"""torchao's int4 in groups of 32 along the input features, symmetric, rounded to nearest.

Every linear layer of every part is quantized, the output head included: it is parted from the token embedding, which
stays float32 (runtimes gather rows of it, and WebAssembly has no quantized gather).
"""

import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

from masters_edge.export.quantize import Quantized
from masters_edge.export.quantize.record import QuantizedTensor

BITS = 4
GROUP_SIZE = 32


def quantize(model: nn.Module, weights: dict[str, dict[str, nn.Linear]]) -> Quantized:
    """Quantize the linear layers in place; weights become float32 again, with the integers' exact meaning."""
    layers = {name: layer for part in weights.values() for name, layer in part.items()}
    fit = {name for name, layer in layers.items() if layer.in_features % GROUP_SIZE == 0}
    notes = []
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    for name in fit:
        if layers[name].weight is embedding:
            layers[name].weight = nn.Parameter(embedding.detach().clone(), requires_grad=False)
            notes.append(f"{name} shared its weight with the token embedding; here it is int4, the embedding float32")
    config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{BITS}"), granularity=PerGroup(GROUP_SIZE))
    quantize_(model, config, filter_fn=lambda module, name: name in fit)
    tensors = []
    for name in layers:
        if name in fit:
            tensor = read_tensor(f"{name}.weight", layers[name].weight)
            layers[name].weight = nn.Parameter(torch.from_numpy(tensor.dequantize()), requires_grad=False)
            tensors.append(tensor)
    words = f"int4, groups of {GROUP_SIZE} along the input features, float32 scales"
    return Quantized(
        tensors,
        parts={
            "embeddings": "float32",
            **{part: words if fit & set(inside) else "float32" for part, inside in weights.items()},
        },
        kept_float32=[
            f"{name}: {layer.in_features} input features are no multiple of {GROUP_SIZE}"
            for name, layer in layers.items()
            if name not in fit
        ],
        notes=notes,
    )


def read_tensor(name: str, weight: torch.Tensor) -> QuantizedTensor:
    """The integers, scales and zero points inside torchao's tensor subclass."""
    scales = weight.scale.float()  # type: ignore[attr-defined]
    zeros = weight.zero_point  # type: ignore[attr-defined]
    return QuantizedTensor(
        name,
        integers=weight.qdata.to(torch.int8).numpy(),  # type: ignore[attr-defined]
        scales=scales.numpy(),
        zero_points=(torch.zeros_like(scales) if zeros is None else zeros).to(torch.int8).numpy(),
        bits=BITS,
        group_size=GROUP_SIZE,
    )

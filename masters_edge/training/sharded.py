"""Models cut up over processes: FSDP2 and DeepSpeed ZeRO-3, as accelerate's configuration asks (docs/scaling.md).

One process and plain DDP keep every model whole, and nothing here has work to do.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType, parse_flag_from_env
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from masters_edge.common.errors import UserError
from masters_edge.objective.chunked import Head


def check() -> None:
    """Refuse what accelerate's launcher may have been asked for, but this training doesn't do.

    Raises:
        UserError: FSDP1, or models that are loaded in parts: every process generates and masks with a whole one.
    """
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError("accelerate's configuration asks for FSDP1; set fsdp_version: 2 in it")
        if parse_flag_from_env("FSDP_CPU_RAM_EFFICIENT_LOADING"):
            raise UserError(
                "accelerate's configuration loads models in the first process only, but every process generates with "
                "its own; set fsdp_cpu_ram_efficient_loading: false in it"
            )
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and parse_flag_from_env("ACCELERATE_DEEPSPEED_ZERO3_INIT"):
        raise UserError(
            "accelerate's configuration loads models in parts, but every process generates with a whole one; set "
            "zero3_init_flag: false in it"
        )


def load_whole() -> None:
    """Keep transformers from loading a model in parts once ZeRO-3 is on: teachers are masked before they are cut up."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def is_zero3(accelerator: Any) -> bool:
    """Whether DeepSpeed cuts up the weights themselves."""
    return (
        accelerator.distributed_type == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3
    )


def preparer(accelerator: Any) -> Callable[[Any], Any] | None:
    """How a frozen model (teacher, reference) is cut up as the student is; None where it stays whole.

    The model is on the CPU or the device, masked already: what is cut up can't be masked any more.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        return functools.partial(fsdp2_prepare_model, accelerator)
    if is_zero3(accelerator):
        return functools.partial(_zero3_inference, accelerator)
    return None


def _zero3_inference(accelerator: Any, model: Any) -> Any:
    """DeepSpeed's engine around a frozen model: what the student's configuration says of weights, and no optimizer."""
    import deepspeed

    asked = accelerator.state.deepspeed_plugin.deepspeed_config
    zero = {n: v for n, v in asked["zero_optimization"].items() if n != "offload_optimizer" and v != "auto"}
    kept = {name: asked[name] for name in ("bf16", "fp16") if name in asked}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, **kept}
    engine, *_ = deepspeed.initialize(model=model, config=config)
    engine.eval()
    return engine


def head_in_forward(model: Any) -> Head:
    """The student's own head, inside its wrapper's forward, so that its gradient finds the way back.

    Raises:
        RuntimeError: FSDP has not put the head together there; its gradient would be one process's alone.
    """
    layer = model.get_output_embeddings()
    if isinstance(layer, FSDPModule):
        layer.unshard()  # as if it were called itself; FSDP reduces its gradient and drops it after the backward pass
    if isinstance(layer.weight, DTensor) and layer.weight.requires_grad:
        raise RuntimeError("FSDP left the output head in parts during the forward pass")
    return Head.of(model)


def frozen_head(model: Any) -> Head:
    """The head of a frozen model, whole, and still whole when later chunks read it."""
    if not any(hasattr(p, "ds_id") for p in model.get_output_embeddings().parameters()):
        return Head.of(model)
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.get_output_embeddings().parameters())), torch.no_grad():
        weight, bias = Head.of(model)
        return Head(weight.clone(), None if bias is None else bias.clone())


def register_head(student: Any, model: Any) -> None:
    """Tell ZeRO-3, before the first forward pass, that the student's forward reads the head of `model` in it itself.

    Nothing to do elsewhere.
    """
    parameters = [p for p in model.get_output_embeddings().parameters() if hasattr(p, "ds_id")]
    known = {id(p) for p in _external(student)} if parameters else set()
    for parameter in parameters:
        if id(parameter) not in known:
            import deepspeed

            deepspeed.zero.register_external_parameter(student, parameter)


def own_part(parameter: Any) -> torch.Tensor:
    """What this process holds of a weight: all of it, where it isn't cut up."""
    part = getattr(parameter, "ds_tensor", parameter).detach()
    return part.to_local() if isinstance(part, DTensor) else part


@contextlib.contextmanager
def whole(wrapper: Any) -> Iterator[None]:
    """The trained model in one piece in every process, so that each may generate at its own pace.

    Takes the memory of the student's weights; without it, processes with fewer answers would leave the others waiting.
    """
    cut = [module for module in wrapper.modules() if isinstance(module, FSDPModule)]
    if cut:
        wrapper.set_reshard_after_forward(False)
        for module in cut:
            module.unshard()
        try:
            yield
        finally:
            for module in cut:
                module.reshard()
            wrapper.set_reshard_after_forward(True)
            wrapper.set_reshard_after_forward(False, recurse=False)  # the root's own, needed again at once
        return
    if any(hasattr(p, "ds_id") for p in wrapper.parameters()):
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(wrapper.parameters())), _without_hooks(wrapper):
            yield
        return
    yield


@contextlib.contextmanager
def _without_hooks(engine: Any) -> Iterator[None]:
    """ZeRO-3's engine without the hooks that fetch and drop weights around each layer, as TRL generates with it."""
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    parameters = [p for m in offload.module.modules() for p in (*m.parameters(recurse=False), *_external(m))]
    for parameter in parameters:
        parameter.ds_active_sub_modules.clear()
    for hook in (*offload.forward_hooks, *offload.backward_hooks):
        hook.remove()
    offload.forward_hooks, offload.backward_hooks = [], []
    try:
        yield
    finally:
        coordinator = offload.get_param_coordinator()
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()
        offload._register_deepspeed_module(offload.module)


def _external(module: Any) -> list[Any]:
    return [parameter for _, parameter in module.ds_external_parameters()]

"""masters-edge with FSDP2 or DeepSpeed on the CPU: accelerate offers both on GPUs only, though torch and DeepSpeed can.

Run by a launcher in place of `masters_edge`. Nothing of ours is replaced: accelerate's choice of the engine is.
"""

import os

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_init, _backend = AcceleratorState.__init__, PartialState._prepare_backend


def _fsdp_too(self, *options, **named):
    _init(self, *options, **named)
    if named.get("fsdp_plugin") is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, named["fsdp_plugin"]
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as accelerate does


def _gloo_for_deepspeed(self, *options):
    return "gloo", DistributedType.MULTI_GPU  # PartialState turns it into DEEPSPEED


if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    AcceleratorState.__init__ = _fsdp_too
if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = _gloo_for_deepspeed

if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        from masters_edge.common import processes

        processes.on_cpu = lambda: False  # accelerate looks at DeepSpeed only where it is not told to use the CPU
    from masters_edge.cli import main

    main()

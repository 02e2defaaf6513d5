"""Where a run keeps the activation norms that score its teachers' weights (`mask.score: activation`)."""

from pathlib import Path

import torch

from masters_edge.common import seals
from masters_edge.common.errors import UserError


def path(folder: Path, teacher: int) -> Path:
    """The file of a teacher's norms below a run's `folder`."""
    return folder / "activation-norms" / f"teacher-{teacher}.safetensors"


def read(folder: Path, teacher: int) -> dict[str, torch.Tensor]:
    """Norms float32 `[in]` by parameter name, as `gather` wrote them."""
    from safetensors.torch import load_file

    file = path(folder, teacher)
    try:
        if wrong := seals.damage(file.parent):
            raise ValueError(wrong)
        return load_file(file)
    except Exception as error:  # safetensors has its own exception type
        raise UserError(
            f"the activation norms {file} can't be read ({error}); the run's masks follow from them, so restore the "
            "file, or start again in another run_dir"
        ) from None

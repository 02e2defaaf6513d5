"""What `mask.score: activation` needs: the norms of every linear layer's input, gathered once and kept with the run.

In: each teacher, whole, and a few training questions. Out: `activation-norms/teacher-0.safetensors` and so on in the
run folder, so that a resumed run masks the same weights, bit for bit.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masters_edge.common import processes, seals
from masters_edge.common.display import say
from masters_edge.common.files import whole_file
from masters_edge.data.records import Question
from masters_edge.engines.transformers import Engine
from masters_edge.teacher import norms as kept_norms
from masters_edge.teacher.chain import TeacherChain
from masters_edge.teacher.masking import activation_norms, maskable

Progress = Callable[[int], None]


def gather(
    chain: TeacherChain, folder: Path, questions: Sequence[Question], max_new_tokens: int, on_progress: Progress
) -> None:
    """Write the norms that are missing: each teacher, unmasked, answers the questions, one at a time.

    With several processes the first one gathers; all of them read its file.
    """
    from safetensors.torch import save_file

    here = processes.state()
    for teacher in range(len(chain)):
        if here.is_main_process and not kept_norms.path(folder, teacher).exists():
            model = chain.load(teacher)
            engine = Engine(model, chain.prompter(teacher), max_new_tokens, batch_size=1)
            with activation_norms(model) as norms:
                for question in questions:
                    engine.greedy([question])
                    on_progress(1)
            _say_unseen(chain, teacher, model, norms)
            with whole_file(kept_norms.path(folder, teacher)) as temporary:
                save_file(norms, temporary)
            seals.seal(kept_norms.path(folder, teacher).parent)
        here.wait_for_everyone()


def _say_unseen(chain: TeacherChain, teacher: int, model: Any, norms: dict[str, torch.Tensor]) -> None:
    candidates = {id(p): name for name, p in maskable(model, chain.mask.include, chain.mask.exclude).items()}
    linears = (module for module in model.modules() if isinstance(module, nn.Linear))
    names = {candidates[id(module.weight)] for module in linears if id(module.weight) in candidates}
    if unseen := sorted(names - norms.keys()):
        some = ", ".join(unseen[:3]) + (", ..." if len(unseen) > 3 else "")
        say(f"{chain.name(teacher)}: {len(unseen)} linear layers saw no calibration question ({some}): by magnitude")

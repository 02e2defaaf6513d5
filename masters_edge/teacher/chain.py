"""The chain of teachers: one in memory at a time, masked as the stage asks."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from masters_edge.common.files import whole_folder
from masters_edge.engines import Speaker
from masters_edge.families import load_model
from masters_edge.families.base import Family
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Mask
from masters_edge.recipe.stages import Masks
from masters_edge.teacher import norms as kept_norms
from masters_edge.teacher.masked_checkpoint import mask_checkpoint
from masters_edge.teacher.masking import MaskedTeacher, Norms, mask_


class TeacherChain:
    """Teachers small to large; `at()` loads the one asked for and masks it in place.

    `masks`: r_max and step of each teacher; None until they are measured where `mask.r_max` is `auto`. `run`: the
    folder that holds the norms gathered for `mask.score: activation`.
    """

    def __init__(self, sources: list[str], mask: Mask, device: Any = "cpu", run: Path | None = None) -> None:
        self.sources, self.mask, self.device, self.run = sources, mask, device, run
        self.masks = None if mask.r_max == "auto" else [Masks(mask.r_max, mask.step)] * len(sources)
        self._loaded: int | None = None
        self._masked: MaskedTeacher | None = None
        self._prepare: Callable[[Any], Any] | None = None
        self._prepared: tuple[int, float, Any] | None = None
        self._prompters: dict[int, Prompter] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def family(self, teacher: int) -> Family:
        return self.prompter(teacher).family

    def prompter(self, teacher: int) -> Prompter:
        if teacher not in self._prompters:
            self._prompters[teacher] = Prompter.load(self.sources[teacher])
        return self._prompters[teacher]

    def load(self, teacher: int) -> Any:
        """A fresh copy of `teacher`, whole, frozen, in evaluation mode; the one `at` gave out is let go."""
        self.release()
        return load_model(self.sources[teacher]).to(self.device).requires_grad_(False)

    def norms(self, teacher: int) -> Norms | None:
        """The norms that score this teacher's weights; None for magnitude alone.

        Raises:
            ValueError: `mask.score` is `activation`, but the chain has no run folder to read them from.
        """
        if self.mask.score == "magnitude":
            return None
        if self.run is None:
            raise ValueError("mask.score is `activation`, so the chain needs the run folder with the norms")
        return kept_norms.read(self.run, teacher)

    def at(self, teacher: int, ratio: float) -> Any:
        """The model of `teacher` masked at `ratio`, frozen, in evaluation mode; as `prepare_with` makes it, where set.

        Raises:
            ValueError: `ratio` is larger than this teacher's r_max, or its r_max isn't known yet.
        """
        if self._prepare is not None:
            return self._prepared_at(teacher, ratio)
        if self._loaded != teacher:
            if self.masks is None:
                raise ValueError("mask.r_max is `auto`, so the chain needs the masks that were measured")
            model, r_max = self.load(teacher), self.masks[teacher].r_max
            self._masked = MaskedTeacher(model, r_max, self.mask.include, self.mask.exclude, self.norms(teacher))
            self._loaded = teacher
        assert self._masked is not None
        self._masked.set_ratio(ratio)
        return self._masked.model

    def speaker(self, teacher: int, ratio: float) -> Speaker:
        """`at(teacher, ratio)` as it answers and scores; an engine that loads files can have it written."""
        model, write = self.at(teacher, ratio), partial(self._write, teacher, ratio) if ratio else None
        return Speaker(self.prompter(teacher), self.sources[teacher], model, ratio, teacher, write)

    def _write(self, teacher: int, ratio: float, out: Path) -> None:
        """The masked teacher as a checkpoint: the weights that training's teacher has at this ratio, bit for bit."""
        source, mask, norms = self.sources[teacher], self.mask, self.norms(teacher)
        if norms is None and list(mask.include) == ["*"] and not mask.exclude:
            mask_checkpoint(source, out, ratio)  # tensor by tensor
            return
        # Globs and norms go by the model's own names of its parameters, which checkpoints may have under others.
        model = load_model(source)
        mask_(model, ratio, mask.include, mask.exclude, norms)
        with whole_folder(out) as temporary:
            model.save_pretrained(temporary)
            self.prompter(teacher).processor.save_pretrained(temporary)

    def prepare_with(self, prepare: Callable[[Any], Any] | None) -> None:
        """From now on load each teacher anew for each ratio, mask it for good and let `prepare` cut it up (FSDP2,
        ZeRO-3), which masks can't be moved through; with None, mask in place again."""
        if prepare is not self._prepare:
            self.release()
            self._prepare = prepare

    def _prepared_at(self, teacher: int, ratio: float) -> Any:
        assert self._prepare is not None
        if self._prepared is None or self._prepared[:2] != (teacher, ratio):
            self.release()
            model = load_model(self.sources[teacher]).requires_grad_(False)  # on the CPU: a device may hold a part only
            mask_(model, ratio, self.mask.include, self.mask.exclude, self.norms(teacher))
            self._prepared = (teacher, ratio, self._prepare(model))
        return self._prepared[2]

    def release(self) -> None:
        """Let go of the loaded teacher: training on stored logits needs none."""
        self._masked = self._loaded = self._prepared = None

    def name(self, teacher: int) -> str:
        return Path(self.sources[teacher]).name

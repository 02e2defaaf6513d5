"""The chain of teachers: one in memory at a time, masked as the stage asks."""

from pathlib import Path
from typing import Any

from masters_edge.families import load_config, load_model, load_processor, require_same_tokenizer
from masters_edge.families.base import Family, family_of
from masters_edge.families.prompts import Prompter
from masters_edge.masking import MaskedTeacher
from masters_edge.recipe.schema import Mask


class TeacherChain:
    """Teachers small to large; `at()` loads the one asked for and masks it in place."""

    def __init__(self, sources: list[str], mask: Mask, device: Any = "cpu") -> None:
        self.sources, self.mask, self.device = sources, mask, device
        self._loaded: int | None = None
        self._masked: MaskedTeacher | None = None
        self._prompters: dict[int, Prompter] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def check(self, student: str, student_processor: Any) -> None:
        """Tokenizers against the student's, before any weights are loaded (METHOD 4)."""
        for source in self.sources:
            require_same_tokenizer(student, student_processor, source, load_processor(source))

    def family(self, teacher: int) -> Family:
        return family_of(load_config(self.sources[teacher]), self.sources[teacher])

    def prompter(self, teacher: int) -> Prompter:
        if teacher not in self._prompters:
            self._prompters[teacher] = Prompter(load_processor(self.sources[teacher]), self.family(teacher))
        return self._prompters[teacher]

    def at(self, teacher: int, ratio: float) -> Any:
        """The model of `teacher` masked at `ratio`, frozen, in evaluation mode."""
        if self._loaded != teacher:
            self._masked = None
            model = load_model(self.sources[teacher]).to(self.device).requires_grad_(False)
            self._masked = MaskedTeacher(model, self.mask.r_max, self.mask.include, self.mask.exclude)
            self._loaded = teacher
        assert self._masked is not None
        self._masked.set_ratio(ratio)
        return self._masked.model

    def name(self, teacher: int) -> str:
        return Path(self.sources[teacher]).name

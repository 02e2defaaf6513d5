"""Where a student comes from, as a bundle's manifest tells it: the schema. `run/origin.py` fills it in.

Read on devices: only pydantic is imported here.
"""

from pydantic import BaseModel, ConfigDict, Field

NOT_STATED = "not stated"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", str_max_length=4000, allow_inf_nan=False)


class Checkpoint(_Model):
    """A model that the student descends from: hub id or the name of its folder, and its licence as stated there."""

    name: str
    licence: str = NOT_STATED
    hub: bool = Field(default=False, description="whether `name` is a hub id")


class Score(_Model):
    """Accuracy in per cent of a model in PyTorch, before any export."""

    of: str
    questions: str
    per_cent: float = Field(ge=0, le=100)
    asked: int | None = Field(default=None, ge=1)


class Origin(_Model):
    """`name` of the student; `student`, the checkpoint it was before training; `training` in words, by topic."""

    name: str
    student: Checkpoint
    teachers: list[Checkpoint] = []
    recipe: str | None = Field(default=None, description="name of the recipe's file")
    seed: int | None = None
    steps: int | None = None
    training: dict[str, str] = {}
    scores: list[Score] = []

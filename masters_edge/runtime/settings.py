"""A bundle's settings files, read with types and bounds: a bundle comes from anybody.

In: a file's name and the schema of what is read of it. Out: what stands there, or one sentence. transformers' files
hold more keys than are read here, and those are passed over; of masters-edge's own files every key is known.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from masters_edge.common import inside
from masters_edge.common.errors import UserError
from masters_edge.common.plain import line

MOST_BYTES = 32 << 20  # of one settings file; a tokenizer_config.json with its added tokens has about one MB
MOST_PIXELS = 1 << 26  # of a preprocessed picture; Qwen3-VL reads up to 1 << 24
MOST_TILES = 1024  # of one picture; Idefics3 cuts up to 145
MOST_IMAGE_TOKENS = 1 << 18

Flag = bool | None
Side = Annotated[int, Field(ge=1, le=16_384)]  # pixels
Small = Annotated[int, Field(ge=1, le=64)]
Count = Annotated[int, Field(ge=1, le=1 << 24)]
Tiles = Annotated[int, Field(ge=1, le=256)]
Tokens = Annotated[int, Field(ge=1, le=1 << 16)]  # of one frame
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Word = Annotated[str, Field(min_length=1, max_length=1000)]
Pinpoints = Annotated[list[Annotated[list[Side], Field(min_length=2, max_length=2)]], Field(min_length=1)]
_Channels = Annotated[list[Annotated[float, Field(ge=-1000, le=1000)]], Field(min_length=3, max_length=3)]
_Spread = Annotated[list[Annotated[float, Field(gt=1e-6, le=1e6)]], Field(min_length=3, max_length=3)]


class Read(BaseModel):
    """What is read of a file that holds other keys, too."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Exactly(BaseModel):
    """The whole of a file: another key is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Pixels(Read):
    """Of `preprocessor_config.json`, what every family reads."""

    do_convert_rgb: Flag = None
    do_resize: Flag = None
    do_rescale: Flag = None
    do_normalize: Flag = None
    resample: Annotated[int, Field(ge=0, le=5)] = 0
    rescale_factor: Annotated[float, Field(gt=0, le=1000)] = 1.0
    image_mean: _Channels = []
    image_std: _Spread = []


class Square(Read):
    """Pixels of a frame."""

    height: Side
    width: Side


class Text(Read):
    """The decoder: how many tokens it reads, and how many it has embeddings for."""

    max_position_embeddings: Count
    vocab_size: Count


class Config(Read):
    """Of `config.json`, what every family has."""

    model_type: Word
    masters_edge_model_type: Word | None = None
    text_config: Text


class Generation(Read):
    """`generation_config.json`: where an answer ends."""

    max_new_tokens: Count | None = None
    eos_token_id: TokenId | Annotated[list[TokenId], Field(max_length=1000)] | None = None


Schema = TypeVar("Schema", bound=BaseModel)


def read(folder: Path, name: str, schema: type[Schema]) -> Schema:
    """The file as its schema; raises UserError where it is missing, or a value has another type or is out of bounds."""
    return _validated(folder, name, schema, _parsed(folder, name))


def checked(folder: Path, name: str, schema: type[BaseModel]) -> dict[str, Any]:
    """The file as it stands there, keys that the schema doesn't know included; raises as `read`."""
    found = _parsed(folder, name)
    _validated(folder, name, schema, found)
    return found


def _parsed(folder: Path, name: str) -> dict[str, Any]:
    found = inside.read_json(folder, name, MOST_BYTES)
    if not isinstance(found, dict):
        raise UserError(f"{folder / name} is no JSON object; {inside.AGAIN}")
    return found


def _validated(folder: Path, name: str, schema: type[Schema], found: dict[str, Any]) -> Schema:
    try:
        return schema.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = line(".".join(map(str, first["loc"])), 100)
        said = line(first["msg"].removeprefix("Value error, "), 200)
        raise UserError(f"{folder / name}: {where + ': ' if where else ''}{said}; {inside.AGAIN}") from None

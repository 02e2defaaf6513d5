"""What a board answers, as schemas: whatever comes from it is checked here before it is used.

A board may be anyone's, or have been taken over: its words are shown as one line, its numbers are finite, and what it
names is compared with what it was asked for.
"""

import json
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError

from masters_edge.common.errors import UserError
from masters_edge.common.plain import line

MOST_LINE = 4 << 20  # bytes of one line; a list of all files of a large bundle has about one MB
MOST_LINES = 256 << 20  # bytes of all lines of one op; a worker says about one KB a second
LONGEST = 300  # characters of its words that are shown


def words(text: str) -> str:
    return line(text, LONGEST)


Words = Annotated[str, AfterValidator(words)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
JobName = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Bytes = Annotated[int, Field(ge=0, le=1 << 50)]


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Holding(_Reply):
    """`hold`: its Python's version, and the jobs that run."""

    version: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=2, max_length=2)]
    running: Annotated[list[JobName], Field(max_length=1000)]


class Missing(_Reply):
    """A file that it lacks, and where it goes on."""

    sha256: Sha256
    bytes: Bytes
    offset: Bytes


class Lacking(_Reply):
    """`plan` and `receive`."""

    missing: list[Missing]


class Environment(_Reply):
    """`environment` and `install`: the wheel in it, and the pins that it could not have."""

    wheel: Sha256 | None = None
    dropped: Annotated[list[Words], Field(max_length=1000)] = []


class Described(_Reply):
    """`ask`: what it is, and which packages it has."""

    device: dict[str, Words | Annotated[float, Field(ge=0, le=1e12)] | None]
    usable: Annotated[int, Field(ge=1, le=4096)]
    versions: dict[Words, Words]


class Fetched(_Reply):
    """A file that comes."""

    path: str
    bytes: Bytes
    sha256: Sha256


class Listing(_Reply):
    """The first line of `fetch`."""

    files: list[Fetched]


class Ended(_Reply):
    """`measure`: how its worker ended."""

    status: Annotated[int, Field(ge=-1000, le=1000)] | None
    said: Words


class Seconds(_Reply):
    """What `install` says as it goes."""

    seconds: Annotated[int, Field(ge=0, le=10**6)]


class Nothing(RootModel[Any]):
    """Of ops that give nothing back: whatever comes is passed over."""


class Problem(_Reply):
    """Why an op failed."""

    problem: Words
    version: Annotated[list[int], Field(max_length=5)] | None = None
    who: Words | None = None
    since: Words | None = None
    where: Words | None = None
    message: Words | None = None
    what: Words | None = None
    need: Annotated[float, Field(ge=0, le=1e18)] | None = None
    free: Annotated[float, Field(ge=0, le=1e18)] | None = None
    status: int | None = None
    lines: list[Words] = []


Schema = TypeVar("Schema", bound=BaseModel)


def parsed(content: bytes | Any, schema: type[Schema], login: str, doing: str) -> Schema:
    """A line of a board, or what is in one, as its schema; raises UserError where it is something else."""
    try:
        found = json.loads(content) if isinstance(content, bytes) else content
        return schema.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = words(".".join(map(str, first["loc"][:6])))
        raise odd(login, doing, f"{where}: {words(first['msg'])}" if where else words(first["msg"])) from None
    except (ValueError, RecursionError):
        raise odd(login, doing, "no JSON") from None


def odd(login: str, doing: str, what: str) -> UserError:
    """The sentence for an answer that masters-edge's own program would not have given."""
    return UserError(
        f"{login} sent something that is no answer of masters-edge while {doing} ({what}); is it your board?"
    )

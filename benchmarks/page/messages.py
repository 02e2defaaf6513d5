"""What page and server say to each other, as schemas: whatever comes from a device is checked here before it is used.

Every text and list that a device sends has a largest length, every number is finite, and a field nobody knows is
refused. Nothing of it is trusted beyond that: it is what some browser claims.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from masters_edge.common.plain import line

MAX_ANSWERS, MAX_QUESTIONS = 200, 500  # in one request
MAX_TEXT = 20_000  # characters of one answer

Backend = Literal["wasm", "webgpu"]
StageName = Literal["preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms"]
Phase = Literal["waiting", "measuring", "finished", "ended"]


def _says_nothing(text: str | None) -> str | None:
    """Browsers send an empty text for what they keep to themselves."""
    return text or None


Line = Annotated[str, Field(max_length=200), AfterValidator(line)]
Told = Annotated[Line | None, AfterValidator(_says_nothing)]
Milliseconds = Annotated[float, Field(ge=0, le=1e10)]
Seconds = Annotated[float, Field(ge=0, le=1e8)]
Speeds = Annotated[list[Annotated[float, Field(ge=0, le=1e10)]], Field(max_length=20_000)]
Stages = dict[StageName, Speeds]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
JobId = Annotated[str, Field(max_length=64)]


class _Upload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Brand(_Upload):
    brand: Line
    version: Line


class Adapter(_Upload):
    """`GPUAdapterInfo`."""

    vendor: Line = ""
    architecture: Line = ""
    device: Line = ""
    description: Line = ""


class Facts(_Upload):
    """What a browser says of itself and its device; None where it doesn't tell. `memory_gib` is a class, no amount."""

    user_agent: Annotated[str, Field(max_length=1000), AfterValidator(line)]
    brands: Annotated[tuple[Brand, ...], Field(max_length=20)] = ()
    platform: Told = None
    platform_version: Told = None
    architecture: Told = None
    model: Told = None
    mobile: bool | None = None
    cores: Annotated[int, Field(ge=1, le=4096)] | None = None
    memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    webgpu: Adapter | None = None
    secure_context: bool
    isolated: bool
    screen: Told = None


class Claim(_Upload):
    """`token` is left out after a reload."""

    token: Annotated[str, Field(max_length=200)] | None = None
    facts: Facts


class Progress(_Upload):
    """`total` of 0: not known yet. `hidden_s`: for how long the page was hidden since it took up the job."""

    job: JobId
    phase: Literal[
        "download", "compile", "start", "warm-up", "latency", "cases", "sustained", "accuracy", "sending", "choice"
    ]
    done: Annotated[float, Field(ge=0, le=1e15)]
    total: Annotated[float, Field(ge=0, le=1e15)]
    hidden_s: Seconds = 0.0


class Stop(_Upload):
    job: JobId


class Failed(_Upload):
    job: JobId
    message: Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(line)]


class Cold(_Upload):
    cold_start_ms: Milliseconds


class ChosenBackend(_Upload):
    backend: Backend
    reason: Annotated[str, Field(max_length=500), AfterValidator(line)]


class Ran(_Upload):
    """What the bundle ran on."""

    backend: Backend
    threads: Annotated[int, Field(ge=1, le=4096)]
    versions: Annotated[dict[Line, Line], Field(max_length=20)]


class Timed(_Upload):
    stages: Stages
    page_memory_mib: Annotated[float, Field(ge=0, le=1e7)] | None = None
    hidden_s: Seconds


class CaseRow(_Upload):
    """Either `stages` or `skipped`, a sentence."""

    name: Line
    prompt_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    image_tokens: Annotated[int, Field(ge=0, le=10**7)] | None = None
    stages: Stages | None = None
    skipped: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(line)] | None = None

    @model_validator(mode="after")
    def _either(self) -> "CaseRow":
        if (self.stages is None) == (self.skipped is None):
            raise ValueError("a case has either stages or skipped")
        return self


class Stretch(_Upload):
    at_s: Seconds
    answers: Annotated[int, Field(ge=1, le=10**7)]
    total_ms: Milliseconds


class AnswerRow(_Upload):
    """`pixels_hash`: CRC-32 of the decoded RGB; `inputs_hash`: of the preprocessed pixel values, float32."""

    text: Annotated[str, Field(max_length=MAX_TEXT)]
    pixels_hash: Hash | None = None
    inputs_hash: Hash | None = None


class Finished(_Upload):
    hidden_s: Seconds


class _Raw(_Upload):
    job: JobId
    index: Annotated[int, Field(ge=0, le=10**8)] = 0


class ColdRaw(_Raw):
    kind: Literal["cold"]
    value: Cold


class ChoiceRaw(_Raw):
    kind: Literal["choice"]
    value: ChosenBackend


class FactsRaw(_Raw):
    kind: Literal["facts"]
    value: Ran


class LatencyRaw(_Raw):
    kind: Literal["latency"]
    value: Timed


class CaseRaw(_Raw):
    kind: Literal["case"]
    value: CaseRow


class SustainedRaw(_Raw):
    kind: Literal["sustained"]
    value: Annotated[list[Stretch], Field(min_length=1, max_length=20_000)]

    @model_validator(mode="after")
    def _forward(self) -> "SustainedRaw":
        moments = [row.at_s for row in self.value]
        if any(later <= earlier for earlier, later in zip([0.0, *moments], moments)):
            raise ValueError("at_s must grow from row to row")
        return self


class AnswersRaw(_Raw):
    kind: Literal["answers"]
    value: Annotated[list[AnswerRow], Field(min_length=1, max_length=MAX_ANSWERS)]


class DoneRaw(_Raw):
    kind: Literal["done"]
    value: Finished


Raw = Annotated[
    ColdRaw | ChoiceRaw | FactsRaw | LatencyRaw | CaseRaw | SustainedRaw | AnswersRaw | DoneRaw,
    Field(discriminator="kind"),
]
RAW: TypeAdapter[Any] = TypeAdapter(Raw)


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BundleFile(_Sent):
    path: str
    bytes: int
    sha256: str


class Bundle(_Sent):
    sha256: str
    url: str
    bytes: int
    files: tuple[BundleFile, ...]


class CaseToMeasure(_Sent):
    """One picture size and prompt length; `image` is a URL."""

    name: str
    image_width: int
    image_height: int
    prompt: str
    new_tokens: int
    text: str
    repeats: int
    image: str


class Done(_Sent):
    """What of a job is there already."""

    cold: int = 0
    choice: dict[str, str] | None = None
    facts: bool = False
    latency: bool = False
    cases: int = 0
    sustained: bool = False
    answers: int = 0


class Job(_Sent):
    """All that the page needs to measure one bundle. The first `compared` questions are compared with Python's runtime;
    without `scored` there are no answers to send."""

    id: str
    name: str
    bundle: Bundle
    threads: int
    backend: Literal["auto", "wasm", "webgpu"]
    choose: bool
    scored: bool
    exactly: int | None
    warm_up: int
    latency_count: int
    cold_starts: int
    cases: tuple[CaseToMeasure, ...]
    sustain_s: float
    questions: int
    compared: int
    done: Done


class Median(_Sent):
    median: float
    p90: float
    n: int


class Right(_Sent):
    right: float
    asked: int
    per_cent: float
    low: float
    high: float


class Same(_Sent):
    equal: int
    asked: int
    inputs_equal: int


class Card(_Sent):
    """One bundle's result, as the page shows it at the end."""

    name: str
    scheme: str
    target: str
    runtime: str
    threads: int
    size_bytes: int
    stages: dict[str, Median]
    cold_start_ms: float | None
    accuracy: Right | None
    same: Same | None
    hidden_s: float
    notes: tuple[str, ...]


def problem(error: ValidationError) -> str:
    """The first thing that is wrong with an upload, without repeating what was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(re.sub(r"[^\w@/-]", "?", str(part))[:40] for part in first["loc"][:8])
    said = line(first["msg"].removeprefix("Value error, "))[:300]
    return f"{where}: {said[:1].lower()}{said[1:]}" if where else said

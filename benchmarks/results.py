"""The schema of results.json: what was measured, of which files, how, and on which machine.

One `Measurement` is one subject (a bundle or a checkpoint) on one suite on one device. Units stand in the names;
accuracy is in per cent. Version 2, which knew no browsers, is read as well; other versions are refused in one
sentence.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from masters_edge.common import files
from masters_edge.common.errors import UserError, reason
from masters_edge.common.files import whole_file, writing
from masters_edge.common.plain import printable

SCHEMA_VERSION = 3
READ_VERSIONS = (2, 3)  # whatever 3 added may be missing

Role = Literal["teacher", "student before", "student after", "exported"]
ROLES: tuple[str, ...] = get_args(Role)
# How browsers without client hints give themselves away; the first that fits, as most claim to be others as well.
_USER_AGENTS = (
    ("Firefox", "Firefox"),
    ("FxiOS", "Firefox"),
    ("CriOS", "Chrome"),
    ("EdgiOS", "Edge"),
    ("EdgA?", "Edge"),
    ("Chrome", "Chrome"),
    ("Version", "Safari"),
)
STAGES = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms")


MOST_BYTES = 64 << 20  # of a results file
MOST_MEASUREMENTS = 5000
LARGEST = 1e15  # of any figure


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=4000)

    @field_validator("*", mode="after")
    @classmethod
    def _printable(cls, value: object) -> object:
        """Texts come from devices and from other people's files, and go to terminals and pages."""
        if isinstance(value, tuple):
            return tuple(printable(one) if isinstance(one, str) else one for one in value)
        if isinstance(value, dict):
            return {printable(key): printable(one) if isinstance(one, str) else one for key, one in value.items()}
        return printable(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, (int, float)) and abs(value) > LARGEST:
                raise ValueError(f"{name} is beyond {LARGEST:g}")
        return self


class Stage(_Record):
    """How long one stage takes over `n` answers; `spread` is the interquartile range. Unit as in the stage's name."""

    median: float = Field(ge=0)
    p90: float = Field(ge=0)
    spread: float = Field(ge=0)
    n: int = Field(ge=1)


class Latency(_Record):
    """Stages of one answer, one question at a time, after warm-up; None where the runtime can't tell.

    `ttft_ms` is the time to the first token: preprocessing + vision + prefill. `total_ms` is the whole answer.
    `cold_start_ms` runs from the start of a fresh process to the end of its first answer.
    """

    preprocess_ms: Stage | None = None
    vision_ms: Stage | None = None
    prefill_ms: Stage | None = None
    ttft_ms: Stage | None = None
    decode_tokens_per_s: Stage | None = None
    total_ms: Stage | None = None
    cold_start_ms: Stage | None = None


class Accuracy(_Record):
    """`right` of `asked` by the suite's metric (a sum of scores), in per cent with a 95% Wilson interval."""

    asked: int = Field(ge=1)
    right: float = Field(ge=0)
    per_cent: float = Field(ge=0, le=100)
    low: float = Field(ge=0, le=100)
    high: float = Field(ge=0, le=100)

    @model_validator(mode="after")
    def _consistent(self) -> "Accuracy":
        if abs(self.per_cent - 100 * self.right / self.asked) > 0.01:
            raise ValueError(f"{self.right} right of {self.asked} is not {self.per_cent}%")
        if not self.low - 1e-6 <= self.per_cent <= self.high + 1e-6:
            raise ValueError("the interval doesn't hold the accuracy")
        return self


class Agreement(_Record):
    """How many of a bundle's answers are, letter for letter, those of its student in PyTorch (95% Wilson interval)."""

    equal: int = Field(ge=0)
    asked: int = Field(ge=1)
    per_cent: float = Field(ge=0, le=100)
    low: float = Field(ge=0, le=100)
    high: float = Field(ge=0, le=100)


class SameAsPython(_Record):
    """A browser's first answers beside those of the Python runtime on the host, for the same bundle and pictures.

    `equal` answers, letter for letter, of `asked`; how many pictures were decoded to the same pixels; and how many
    preprocessed inputs were the same, bit for bit.
    """

    equal: int = Field(ge=0)
    asked: int = Field(ge=1)
    pictures_equal: int = Field(ge=0)
    inputs_equal: int = Field(ge=0)


class Case(_Record):
    """One picture size and one prompt length, answered again and again with exactly `new_tokens` tokens each time.

    `image_tokens` are the places that the picture takes in the prompt of `prompt_tokens`. A case that the student has
    no room for, or that its family can't read, has `skipped` (why, in one sentence) in place of figures.
    """

    name: str
    image_width: int = Field(ge=1)
    image_height: int = Field(ge=1)
    prompt: Literal["short", "long"]
    new_tokens: int = Field(ge=1)
    prompt_tokens: int | None = Field(default=None, ge=1)
    image_tokens: int | None = Field(default=None, ge=0)
    latency: Latency | None = None
    skipped: str | None = None


class Energy(_Record):
    """What the device's own meter says of the latency questions, and which meter that is ("RAPL package",
    "battery", "powermetrics"). `idle_watts` was read just before, and is not subtracted."""

    source: str
    joules_per_answer: float = Field(ge=0)
    watts: float = Field(ge=0)
    idle_watts: float | None = Field(default=None, ge=0)


class Conditions(_Record):
    """How the device was before and after: other load (1-minute average), temperature, clock; None where it can't
    tell. `governor` is Linux's cpufreq governor. `other_cores`: how many cores' worth of work other programs did
    while the latency questions were answered. `hidden_s`: for how long a browser didn't show the page meanwhile, which
    spoils its figures. `battery_*`: charge in per cent."""

    load_before: float | None = Field(default=None, ge=0)
    other_cores: float | None = Field(default=None, ge=0)
    celsius_before: float | None = None
    celsius_after: float | None = None
    mhz_before: float | None = Field(default=None, ge=0)
    mhz_after: float | None = Field(default=None, ge=0)
    governor: str | None = None
    hidden_s: float | None = Field(default=None, ge=0)
    battery_before: float | None = Field(default=None, ge=0, le=100)
    battery_after: float | None = Field(default=None, ge=0, le=100)


class Moment(_Record):
    """One stretch of the sustained loop, `at_s` seconds after its start (the end of the stretch)."""

    at_s: float = Field(ge=0)
    answers: int = Field(ge=1)
    total_ms: float = Field(ge=0, description="median whole answer of the stretch")
    celsius: float | None = None
    mhz: float | None = Field(default=None, ge=0)


class Sustained(_Record):
    """The same questions over and over, without a pause. `speed_left` is the first stretch's median whole answer over
    the last one's: 1 means no slowdown."""

    seconds: float = Field(gt=0)
    moments: tuple[Moment, ...] = Field(min_length=1)
    speed_left: float = Field(gt=0)


class SuiteInfo(_Record):
    """Which questions were asked: `sha256` covers ids, texts, labels, metric and images."""

    name: str
    metric: str
    sha256: str


class Browser(_Record):
    """What a browser says of itself and of the page that measured; None where it doesn't tell.

    `memory_gib` is a class (`navigator.deviceMemory`), not an amount. `webgpu`: the adapter. `isolated`: whether the
    page was cross-origin isolated, without which there is one WASM thread.
    """

    user_agent: str
    brands: tuple[str, ...] = ()
    platform: str | None = None
    platform_version: str | None = None
    mobile: bool | None = None
    memory_gib: float | None = Field(default=None, gt=0)
    webgpu: str | None = None
    secure_context: bool
    isolated: bool
    screen: str | None = None

    @property
    def name(self) -> tuple[str, str]:
        """ "Chrome" and "142", as it calls itself in its client hints or else in its user agent."""
        brands = [brand for brand in self.brands if "not" not in brand.lower()]  # "Not?A_Brand 24" means nothing
        own = [brand for brand in brands if not brand.startswith("Chromium")] or brands
        if own:
            title, _, version = own[0].rpartition(" ")
            return title.removeprefix("Google ").removeprefix("Microsoft "), version.partition(".")[0]
        for token, title in _USER_AGENTS:
            if found := re.search(rf"\b{token}/(\d+)", self.user_agent):
                return title, found[1]
        return "a browser", "of unknown version"


class Device(_Record):
    """The machine a figure was measured on, as that machine told the measuring process itself. A browser tells neither
    `ram_mib` nor `python`, and no more of the processor than its kind."""

    kind: str = "local"
    address: str | None = Field(default=None, description="how it was reached, such as ssh://pi@kitchen.local")
    name: str
    model: str | None = None
    cpu: str
    cores: int = Field(ge=1)
    logical_cores: int = Field(ge=1)
    ram_mib: int | None = Field(default=None, ge=1)
    os: str
    architecture: str
    python: str | None = None
    browser: Browser | None = None


class Training(_Record):
    """What it took to train the subject, where the caller knows."""

    steps: int | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0)


class Measurement(_Record):
    """One subject, measured once."""

    name: str
    role: Role
    kind: str
    path: str
    sha256: str
    target: str
    runtime: str
    scheme: str
    parameters: int | None = Field(default=None, ge=0)
    size_bytes: int = Field(ge=0)
    device: Device
    threads: int = Field(ge=1)
    backend: str = Field(default="auto", description="what was asked for; `runtime` is what ran")
    backend_reason: str | None = Field(default=None, description="with `auto`, why that runtime was taken")
    candidates: dict[str, str] = Field(default={}, description="installed packages that `backend` could have meant")
    weights: str | None = Field(
        default=None,
        description="fingerprint of the student's weights: a checkpoint's own, or those a bundle is made of",
    )
    versions: dict[str, str]
    suite: SuiteInfo | None = Field(description="None where nothing was asked for accuracy, as in a preview")
    accuracy: Accuracy | None
    agreement: Agreement | None = None
    python_runtime: SameAsPython | None = None
    answers: str | None = Field(default=None, description="file of every answer, beside results.json")
    batched: bool = Field(description="whether the answers beyond the latency sample were computed in batches")
    latency: Latency
    latency_questions: int = Field(ge=1)
    cases: tuple[Case, ...] = ()
    peak_rss_mib: float | None = Field(default=None, ge=0)
    page_memory_mib: float | None = Field(
        default=None, ge=0, description="what a browser counts for its page after the latency sample: no peak"
    )
    conditions: Conditions = Conditions()
    energy: Energy | None = None
    sustained: Sustained | None = None
    unmeasured: tuple[str, ...] = Field(default=(), description="what this device can't tell, a sentence each")
    training: Training = Training()
    started: datetime
    ended: datetime


class Results(_Record):
    """The whole of results.json."""

    schema_version: int = SCHEMA_VERSION
    measurements: tuple[Measurement, ...] = Field(default=(), max_length=MOST_MEASUREMENTS)

    def with_measurement(self, new: Measurement) -> "Results":
        """`new` in the place of an older one with its name, suite, device, runtime and threads, else at the end."""
        kept = list(self.measurements)
        for place, old in enumerate(kept):
            if slot(old) == slot(new):
                kept[place] = new
                break
        else:
            kept.append(new)
        return self.model_copy(update={"measurements": tuple(kept)})


def slot(measurement: Measurement) -> tuple[str, ...]:
    """What a results file holds one measurement of."""
    device, suite = measurement.device, measurement.suite
    asked = suite.name if suite is not None else "no suite"
    where = (device.kind, device.address or "", device.name, *(device.browser.name[:1] if device.browser else ()))
    return measurement.name, asked, *where, measurement.runtime, f"{measurement.threads} threads"


def read(path: Path) -> Results:
    """results.json, validated; a UserError in one sentence where it is missing, damaged or of another version."""
    path = Path(path)
    try:
        data = json.loads(files.read_text(path, MOST_BYTES))
    except FileNotFoundError:
        raise UserError(f"there is no results file {path}; make one with: masters-edge bench") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged, it is no JSON ({reason(error)}); remove it, and measure again with: masters-edge bench"
        ) from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{path} is no results file of masters-edge: it has no schema_version; give another one")
    if version not in READ_VERSIONS:
        advice = "update masters-edge to read it" if version > SCHEMA_VERSION else "remove it, and measure again"
        known = " and ".join(map(str, READ_VERSIONS))
        raise UserError(f"{path} has results schema {version}, this masters-edge reads {known}; {advice}")
    try:
        return Results.model_validate(data | {"schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path} is damaged at {where}: {first['msg']}; remove it, and measure again") from None


def update(path: Path, change: Callable[[Results], Results]) -> Results:
    """Write results.json as `change` makes it of what is there now, which nobody else changes meanwhile: two commands
    may measure into one file."""
    from filelock import FileLock

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    try:
        changed = change(read(path) if path.exists() else Results())
        write(path, changed)
    finally:
        lock.release()
    return changed


def write(path: Path, results: Results) -> None:
    """Write results.json whole or not at all (a new file, then a rename)."""
    write_atomically(Path(path), (results.model_dump_json(indent=1) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """`content` as `path`, through a temporary file beside it; a full disk or a forbidden folder is a UserError."""
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}); the old one is untouched") from None

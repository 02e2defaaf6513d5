"""The recipe: one schema for the whole way from a teacher to a measured student.

Defaults are the paper's (docs/method.md, arXiv 2512.22238). Every field says what it is, in which unit, within which
bounds; `masters-edge schema` prints the same as JSON Schema, docs/recipe.md is written from it. Nothing heavier than
pydantic is imported here.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from masters_edge.recipe import served
from masters_edge.recipe.stages import AUTO_STAGES, RUNGS, Masks, five_stages, shortest

Ratio = Annotated[float, Field(ge=0, lt=1)]
Objective = Literal["joint", "distill", "reward", "labels"]

# Upper bounds. Nothing sensible lies beyond them; a slip of the pen would fill the memory, or run for years.
STEPS = 10_000_000
QUESTIONS = 1_000_000_000
AT_ONCE = 100_000  # questions or sequences of one step or batch
TOKENS = 1_000_000  # of one prompt or response; entries of a vocabulary
THREADS = 1024
DAY_S = 86_400.0
SEED = 2**32 - 1  # what numpy takes

Share = Annotated[float, Field(gt=0, le=1_000_000)]


class Section(BaseModel):
    """What holds for every key: none unknown, no infinity, `true` is no number, and no text holds a zero byte."""

    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("no_switch", "`true` and `false` are no value of this key")
        for text in _texts(value):
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise PydanticCustomError("no_text", "text must hold neither a zero byte nor a lone surrogate")
        return value


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, those inside lists and mappings included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _texts(list(pair))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


class Source(Section):
    """Where questions come from: `easy-vqa`, a folder, a JSONL/Parquet file, a `datasets` id or a saved data set."""

    source: str
    """`easy-vqa`, a path (relative to the recipe) or a hub data set id (`name` or `name:config`)."""
    split: str | None = None
    """Split to read, where the source has splits (`train`, `test`)."""
    image_column: str = "image"
    """Column with the image: a path, bytes, or a `datasets` image."""
    question_column: str = "question"
    """Column with the question's text. Sources with a `messages` column need none."""
    answer_column: str | None = "answer"
    """Column with the label, which may be empty; none: the questions have no labels, whatever their columns hold."""
    metric_column: str | None = None
    """Column with the name of the rule that scores answers to the question (`judge` for the judge); none, or an empty
    field, for `reward.metric`."""
    image_root: str | None = None
    """Folder that relative image paths start from; default: the folder of the file itself."""
    follow_ups: Literal["refuse", "leave_out", "split"] = "refuse"
    """What becomes of a chat's user turns that bring no image of their own, since questions are learned one by one:
    `refuse` the record; `leave_out` such turns; `split` makes each a question about the image before it, without the
    turns between."""
    on_error: Literal["stop", "skip"] = "stop"
    """What becomes of questions whose image is missing or can't be decoded: `stop` names them; `skip` leaves them out,
    and a run lists them in skipped.txt."""
    most_skipped: float = Field(default=0.05, ge=0, lt=1)
    """Largest share of the questions that `on_error: skip` leaves out; more is an error."""


class Data(Section):
    """Questions to learn from, and questions to measure on. The two never mix."""

    train: Source
    """Questions the student learns from."""
    test: Source | None = None
    """Questions for `bench`; never read by `distill`."""
    labels: Annotated[int, Field(ge=0, le=QUESTIONS)] | Literal["all"] = "all"
    """How many training questions keep their answer (count); the teacher alone speaks about the others."""
    held_out: int = Field(default=500, ge=0, le=QUESTIONS)
    """Training questions set aside, image by image, for the accuracy shown while training (count). Their labels are
    used for that figure only."""
    limit: int | None = Field(default=None, ge=1, le=QUESTIONS)
    """Use at most this many training questions (count), chosen by the seed."""


class Mask(Section):
    """Masked teacher and its schedule (METHOD 1, 2; Eq. 3)."""

    r_max: Ratio | Literal["auto"] = 0.20
    """Largest masking ratio: the share of each layer's weights, smallest magnitudes first, that is zeroed at the start.
    0 leaves the teacher whole throughout. `auto` measures each teacher on held-out questions before training, at 0,
    0.05, 0.10, ... until it breaks, and takes the largest ratio it bears (see `keep`), in five stages."""
    step: float = Field(default=0.05, ge=0.001, le=1)
    """Step `s` between two stages' ratios; there are r_max / s + 1 stages, and the last has ratio 0. Not read where
    r_max is `auto`: each teacher's step is then a quarter of its own r_max."""
    keep: float = Field(default=0.95, gt=0, le=1)
    """With `r_max: auto`, the share of its unmasked accuracy that a teacher must keep at r_max; where no held-out
    question has a label, the share of its own unmasked answers that must stay the same."""
    stage_lengths: list[Share] | None = None
    """Relative lengths of the stages within one teacher's part, first stage (r_max) first; none for equal ones (Eq. 3).
    As many as there are stages: r_max / step + 1, or 5 where r_max is `auto`."""
    teacher_lengths: list[Share] | None = None
    """Relative shares of a phase's steps that the teachers get, in the chain's order; none for equal ones."""
    score: Literal["magnitude", "activation"] = "magnitude"
    """What makes a weight small: its magnitude, or, in linear layers, its magnitude times the L2 norm of the input that
    its column sees on a few calibration questions (other tensors stay with their magnitude)."""
    calibration_questions: int = Field(default=32, ge=1, le=AT_ONCE)
    """Training questions that each teacher answers for `score: activation` (count)."""
    include: list[str] = Field(default_factory=lambda: ["*"])
    """Glob patterns of parameter names that may be masked (tensors of two or more dimensions only)."""
    exclude: list[str] = Field(default_factory=list)
    """Glob patterns of parameter names that are never masked."""

    @model_validator(mode="after")
    def _whole_stages(self) -> "Mask":
        if self.r_max != "auto":
            stages = self.r_max / self.step
            if abs(stages - round(stages)) > 1e-6 or (self.r_max and stages < 0.5):
                raise ValueError(f"mask.r_max ({self.r_max:g}) must be a whole multiple of mask.step ({self.step:g})")
        if self.stage_lengths is not None and len(self.stage_lengths) != self.stages:
            raise ValueError(
                f"mask.stage_lengths has {len(self.stage_lengths)} entries, but mask.r_max {self.r_max} makes "
                f"{self.stages} stages; give one length per stage"
            )
        return self

    @property
    def stages(self) -> int:
        """Stages of one teacher: M of Eq. 3."""
        return AUTO_STAGES if self.r_max == "auto" else len(Masks(self.r_max, self.step).ratios)

    @property
    def possible(self) -> list[float]:
        """Every ratio that a stage may have; with `auto`, the stages of every r_max that is tried."""
        if self.r_max != "auto":
            return Masks(self.r_max, self.step).ratios
        return sorted({ratio for r_max in RUNGS for ratio in five_stages(r_max).ratios}, reverse=True)


class Endpoint(Section):
    """An OpenAI-compatible server that answers questions about images (vLLM, SGLang, `transformers serve`, ...)."""

    url: str
    """Where it listens, `/v1` included, such as `http://gpu-box:8000/v1`. `{ratio}` and `{teacher}` stand for the
    stage's mask ratio (`{ratio:.2f}` where no ratio has more digits) and the teacher's place in the chain: a masked
    teacher is served as a checkpoint of its own, made by `masters-edge mask`."""
    model: str
    """Name of the model there; may hold `{ratio}` and `{teacher}` as well."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the server's key; unset where the server asks for none."""
    concurrency: int = Field(default=16, ge=1, le=THREADS)
    """Requests under way at once (count)."""
    retries: int = Field(default=4, ge=0, le=100)
    """How often a failed request is tried again (count), with growing pauses."""
    timeout_s: float = Field(default=120.0, gt=0, le=DAY_S)
    """Longest wait for one answer, whole (seconds); each retry has as long."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request's JSON, as the server knows them."""


class Vllm(Section):
    """Settings of the vLLM engine."""

    tensor_parallel: int = Field(default=1, ge=1, le=THREADS)
    """GPUs that one model is spread over (count)."""
    gpu_memory: float = Field(default=0.85, gt=0, le=1)
    """Share of each GPU's memory that vLLM takes."""
    max_model_len: int | None = Field(default=None, ge=1, le=TOKENS)
    """Longest prompt and response together (tokens); none for the model's own."""


class Responses(Section):
    """Pre-generated responses per question and stage (METHOD 3)."""

    student: int = Field(default=4, ge=0, le=64)
    """Responses sampled from the student as it stood before the phase (count per question)."""
    teacher: int = Field(default=4, ge=0, le=64)
    """Responses sampled from the stage's masked teacher (count per question)."""
    temperature: float = Field(default=1.0, ge=1e-6, le=100)
    """Sampling temperature."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Nucleus: smallest set of tokens whose probability reaches this."""
    top_k: int = Field(default=50, ge=0, le=TOKENS)
    """Sample among this many most likely tokens (count); 0 for all."""
    repetition_penalty: float = Field(default=1.05, ge=0.01, le=100)
    """Divides the score of tokens seen before; 1 for none."""
    max_new_tokens: int = Field(default=256, ge=1, le=TOKENS)
    """Longest response (tokens)."""
    batch_size: int = Field(default=64, ge=1, le=AT_ONCE)
    """Sequences generated at once (count). Changes speed and memory, not the responses."""
    questions_per_shard: int = Field(default=512, ge=1, le=QUESTIONS)
    """Questions in one Parquet file (count): what a kill loses at most."""
    split: Literal["fixed", "auto"] = "fixed"
    """How a step's sequences are dealt out: `fixed` as the counts above and `train.questions_per_step` say; `auto`
    keeps their product, and asks more questions with fewer responses each where the responses to a question turn out
    alike (a few are asked ahead)."""
    student_engine: Literal["transformers", "vllm"] | Endpoint = "transformers"
    """What samples the student's responses: transformers, vLLM in this process (GPUs), or a server."""
    teacher_engine: Literal["transformers", "vllm"] | Endpoint = "transformers"
    """What samples the masked teacher's responses."""
    vllm: Vllm = Field(default_factory=Vllm)
    """How vLLM runs, where an engine is `vllm`."""
    shared: str | None = None
    """Folder in which several runs keep their responses: what one made of the same models, questions, sampling and
    seed, another reads. None: each run's own folder."""


class Judge(Section):
    """A language model that scores responses which no rule can (METHOD 5)."""

    model: str
    """Checkpoint of a language model (hub id, or a folder as for teachers); with `url`, its name at the server."""
    url: str | None = None
    """OpenAI-compatible server, `/v1` included; none: the model runs here, on transformers."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the server's key; unset where the server asks for none."""
    concurrency: int = Field(default=8, ge=1, le=THREADS)
    """Requests under way at once, at a server (count)."""
    retries: int = Field(default=3, ge=0, le=100)
    """How often a failed request is tried again (count), with growing pauses."""
    timeout_s: float = Field(default=120.0, gt=0, le=DAY_S)
    """Longest wait for one verdict, whole, at a server (seconds); each retry has as long."""
    batch_size: int = Field(default=16, ge=1, le=AT_ONCE)
    """Responses judged at once, where the model runs here (count)."""
    max_new_tokens: int = Field(default=256, ge=1, le=TOKENS)
    """Longest verdict, explanation included (tokens)."""


class Reward(Section):
    """Dual reward and the policy term (METHOD 5, 6, 8)."""

    metric: str = "exact_match"
    """Rule that scores a response against the label (R_acc): a metric's name as `bench` knows it, or `judge`."""
    judge: Judge | None = None
    """The judge, for questions whose metric is `judge`."""
    accuracy: bool = True
    """Count R_acc."""
    distillation: bool = True
    """Count R_distill."""
    min_max: bool = True
    """Normalise R_distill over the group, closest to the teacher 1, furthest 0; else it is minus the divergence."""
    live: bool = False
    """Take R_distill from the student as it is at each step, instead of the one that the phase started from."""
    unlabelled: Literal["teacher", "none"] = "teacher"
    """Label where a question has none: the unmasked teacher's own greedy answer, or `none` (R_acc left out there)."""
    policy: Literal["paper", "positive", "truncated_is", "auto"] = "paper"
    """Policy term: the paper's (Eq. 8); positive advantages only; truncated importance weights (METHOD 8). `auto`
    chooses term, weight and beta once the responses are scored, from how right teacher and student are on labelled
    questions."""
    weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the policy term beside the distillation term."""
    kl_beta: float = Field(default=0.1, ge=0, le=1000)
    """Weight of KL(student || reference) in the paper's policy term; it counts at every response token."""
    reference: Literal["start", "phase"] = "start"
    """The reference of that KL (pi_ref of Eq. 8): the student as it was before the first phase (`start`), or before
    the phase that trains (`phase`). With a single phase the two are one."""


class Lora(Section):
    """Low-rank adapters (peft) instead of all weights; merged into the student at the end."""

    rank: int = Field(default=16, ge=1, le=4096)
    """Rank of the adapters."""
    alpha: float = Field(default=32.0, gt=0, le=1_000_000)
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    targets: list[str] = Field(default_factory=list)
    """Names (or their ends) of the linear layers that get one; none for all but the output head."""


class Phase(Section):
    """One training pass from a student to a better one."""

    objective: Objective = "joint"
    """`joint`: distillation and reward in one pass (the paper, Eq. 11); `distill`: distillation alone; `reward`: the
    policy term alone; `labels`: supervised learning on the labelled questions, no teacher."""
    steps: int = Field(default=1000, ge=1, le=STEPS)
    """Optimizer steps (count); the whole mask schedule of every teacher is spread over them."""


class Train(Section):
    """Optimization, on transformers' Trainer."""

    phases: list[Phase] = Field(default_factory=lambda: [Phase()], min_length=1)
    """What is trained in which order; each phase generates its own responses from the student it starts from."""
    questions_per_step: int = Field(default=16, ge=1, le=AT_ONCE)
    """Questions in one optimizer step (count); sequences are this times the responses per question."""
    questions_per_device: int | None = Field(default=None, ge=1, le=AT_ONCE)
    """Questions in one forward pass of one process (count): memory follows it. Whatever is missing to
    questions_per_step is accumulated; none for questions_per_step / processes."""
    teacher_logits: Literal["live", "cached"] = "live"
    """`live`: the teacher runs beside the student; `cached`: what it says is stored while responses are scored, so that
    training loads no teacher."""
    teacher_top_k: int = Field(default=64, ge=1, le=TOKENS)
    """Most likely tokens stored per response token with `cached` (count); all others count as one."""
    lora: Lora | None = None
    """Train low-rank adapters instead of all weights."""
    gradient_checkpointing: bool = False
    """Compute activations a second time in the backward pass instead of keeping them."""
    liger: bool = False
    """Use liger-kernel's fused layers in the student (GPU only)."""
    trackers: list[str] = Field(default_factory=lambda: ["tensorboard"])
    """Where metrics go besides metrics.jsonl: names as transformers' Trainer knows them (`tensorboard`, `wandb`,
    `trackio`, ...)."""
    learning_rate: float = Field(default=1e-6, gt=0, le=10)
    """AdamW's learning rate; 1e-6 is the paper's for billions of parameters, a small student needs more."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after warm-up."""
    warmup_steps: int = Field(default=0, ge=0, le=STEPS)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0, le=100)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1_000_000)
    """Gradients longer than this are scaled down to it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward and backward pass; weights and optimizer stay float32."""
    freeze: list[str] = Field(default_factory=list)
    """Glob patterns of student parameters that don't learn, such as `model.vision_model.*`."""
    log_every: int = Field(default=10, ge=1, le=STEPS)
    """Steps between two lines of metrics."""
    eval_every: int = Field(default=100, ge=1, le=STEPS)
    """Steps between two measurements on the held-out questions."""
    save_every: int = Field(default=100, ge=1, le=STEPS)
    """Steps between two checkpoints: what a kill loses at most."""
    threads: Annotated[int, Field(ge=1, le=THREADS)] | Literal["auto"] = "auto"
    """CPU threads; `auto` takes the cores that are free at the start, and a resumed run keeps the number."""

    @model_validator(mode="after")
    def _whole_lines(self) -> "Train":
        if self.save_every % self.log_every:
            raise ValueError(
                f"train.save_every ({self.save_every}) must be a multiple of train.log_every ({self.log_every}), "
                "so that a resumed run writes the same metrics"
            )
        if self.questions_per_device and self.questions_per_step % self.questions_per_device:
            raise ValueError(
                f"train.questions_per_step ({self.questions_per_step}) must be a multiple of "
                f"train.questions_per_device ({self.questions_per_device})"
            )
        return self


class Mixed(Section):
    """One scheme or preset with exceptions: other schemes for some parts of the student."""

    scheme: str
    """Scheme or preset for all parts that have none of their own here."""
    vision: str | None = None
    """Scheme of the vision encoder's linear layers."""
    connector: str | None = None
    """Scheme of the layers between vision encoder and language model."""
    embeddings: str | None = None
    """Scheme of the token embedding; a plain int4 or int8 leaves it float32."""
    decoder: str | None = None
    """Scheme of the language model's linear layers."""
    head: str | None = None
    """Scheme of the output head."""
    tied: Literal["shared", "split"] | None = None
    """Whether a head that shares its weight with the embedding stays one with it; none for one where both have the
    same scheme."""

    @property
    def parts(self) -> dict[str, str]:
        """The exceptions, by part."""
        named = {part: getattr(self, part) for part in ("vision", "connector", "embeddings", "decoder", "head")}
        return {part: scheme for part, scheme in named.items() if scheme is not None}

    @property
    def name(self) -> str:
        """The plan's name, as in the bundle's folder."""
        from masters_edge.quantization import by_part

        return by_part.plan(self.scheme, self.parts, self.tied).name

    @model_validator(mode="after")
    def _a_plan(self) -> "Mixed":
        from masters_edge.common.errors import UserError

        try:
            assert self.name
        except UserError as error:
            raise ValueError(f"quantize.schemes: {error}") from None
        return self


class Qat(Section):
    """Quantization-aware training: the last steps see the student's weights as `export` rounds them."""

    scheme: Mixed | str = "int4"
    """Scheme or preset that the weights are rounded by, as in `schemes`; parts that it makes float16 stay float32."""
    share: float = Field(default=0.2, gt=0, le=1)
    """Share of the last phase's steps, at its end."""

    def plain_steps(self, steps: int) -> int:
        """How many of the last phase's steps come before them."""
        return steps - max(1, round(self.share * steps))


class Quantize(Section):
    """Number formats that `export` writes."""

    schemes: list[Mixed | str] = Field(default=["fp32", "int4"], min_length=1)
    """Quantization schemes or presets, one bundle each: a name (`masters-edge export --help` lists them), or
    `{scheme: int4, vision: int8}` for one with exceptions."""
    method: Literal["rtn", "hqq", "gptq"] = "rtn"
    """How integers are chosen: `rtn` rounds to nearest; `hqq` and `gptq` look for better ones."""
    budget: str | None = None
    """What the scheme `auto` may spend on all weights: `92MB`, or bits a weight, `4.9bits`; none for 2.5% more than it
    takes with no layer bought."""
    qat: Qat | None = None
    """Train the last steps with weights rounded to nearest as `export` does it; none for plain training."""

    @model_validator(mode="after")
    def _a_budget(self) -> "Quantize":
        from masters_edge.common.errors import UserError
        from masters_edge.quantization import by_part

        names = [entry if isinstance(entry, str) else entry.scheme for entry in self.schemes]
        try:
            if self.budget is not None:
                by_part.budget_bytes(self.budget, 1)
            if self.budget is not None and by_part.AUTO not in names:
                by_part.refuse_budget(names[0])
        except UserError as error:
            raise ValueError(f"quantize.budget: {error}") from None
        return self


class Export(Section):
    """Device formats that `export` writes."""

    targets: list[str] = Field(default_factory=lambda: ["onnx"], min_length=1)
    """Targets, one bundle per scheme each (`masters-edge export --help` lists those built)."""
    parity_samples: int = Field(default=32, ge=1, le=AT_ONCE)
    """Held-out or training questions on which the exported files must answer as PyTorch does (count)."""


class Bench(Section):
    """How students are measured."""

    metric: str = "exact_match"
    """Metric on the test questions."""
    questions: int | None = Field(default=None, ge=1, le=QUESTIONS)
    """Test questions asked (count); none for all."""
    latency_questions: int = Field(default=200, ge=1, le=AT_ONCE)
    """Questions that PyTorch models answer one at a time for their latency (count); bundles always do."""
    threads: int | None = Field(default=None, ge=1, le=THREADS)
    """Threads of the runtime; none for the machine's cores."""


class Recipe(Section):
    """From a teacher to a measured student, in one file.

    Example:
        >>> import masters_edge
        >>> content = {"student": "./student", "teachers": ["./teacher"], "data": {"train": {"source": "easy-vqa"}}}
        >>> recipe = masters_edge.Recipe.model_validate(content)
        >>> recipe.mask.r_max, recipe.responses.student
        (0.2, 4)
    """

    # Without the example: editors show it.
    model_config = ConfigDict(json_schema_extra={"description": "From a teacher to a measured student, in one file."})

    student: str
    """Checkpoint to start from: a hub id, or a folder (`./` or `../` first: relative to the recipe)."""
    teachers: list[str] = Field(min_length=1)
    """Chain of teachers, small to large; each runs the whole mask schedule. Hub ids or folders."""
    data: Data
    mask: Mask = Field(default_factory=Mask)
    responses: Responses = Field(default_factory=Responses)
    reward: Reward = Field(default_factory=Reward)
    train: Train = Field(default_factory=Train)
    quantize: Quantize = Field(default_factory=Quantize)
    export: Export = Field(default_factory=Export)
    bench: Bench = Field(default_factory=Bench)
    seed: int = Field(default=0, ge=0, le=SEED)
    """Seed of everything drawn: labels kept, order, sampling."""
    run_dir: str | None = None
    """Folder of the run; default: runs/<name of the recipe file>, in the current directory."""

    @model_validator(mode="after")
    def _combinations(self) -> "Recipe":
        group = self.responses.student + self.responses.teacher
        if self.mask.teacher_lengths is not None and len(self.mask.teacher_lengths) != len(self.teachers):
            raise ValueError(
                f"mask.teacher_lengths has {len(self.mask.teacher_lengths)} entries, but there are "
                f"{len(self.teachers)} teachers; give one share per teacher"
            )
        distils = any(phase.objective != "labels" for phase in self.train.phases)
        if self.mask.r_max == "auto" and distils and not self.data.held_out:
            raise ValueError(
                "mask.r_max is `auto`, which is measured on held-out questions, but data.held_out is 0; set some aside"
            )
        generating = sum(phase.objective != "labels" for phase in self.train.phases)
        if isinstance(self.responses.student_engine, Endpoint) and generating > 1:
            raise ValueError(
                f"responses.student_engine is a server, but {generating} phases generate, each from the student that "
                "the one before has trained, which no server has; use `transformers` or `vllm`, or a single phase"
            )
        engine = self.responses.teacher_engine
        if isinstance(engine, Endpoint) and distils and (self.responses.teacher or self.reward.unlabelled == "teacher"):
            try:
                served.check(engine.url, engine.model, len(self.teachers), self.mask.possible)
            except ValueError as error:
                raise ValueError(f"responses.teacher_engine: {error}") from None
        uses_judge = self.reward.metric == "judge" or self.data.train.metric_column is not None
        if self.reward.metric == "judge" and self.reward.judge is None:
            raise ValueError(
                "a judge is to score responses, but reward.judge names none; give reward.judge.model (a hub id or a "
                "folder; with reward.judge.url, its name at that server)"
            )
        if self.reward.judge is not None and not uses_judge:
            raise ValueError(
                "reward.judge is given, but no question asks for it; set reward.metric to `judge`, or "
                "data.train.metric_column for some of the questions"
            )
        if group == 0:  # of `labels` phases too: G times the questions are what they see at a step
            raise ValueError("responses.student and responses.teacher are both 0; ask for at least 1 response")
        for index, phase in enumerate(self.train.phases):
            visits = phase.steps * self.train.questions_per_step * (group if phase.objective == "labels" else 1)
            if visits > QUESTIONS:
                raise ValueError(
                    f"train.phases.{index}.steps ({phase.steps:,}) of {self.train.questions_per_step:,} questions are "
                    f"{visits:,} visits; a phase has {QUESTIONS:,} at most"
                )
            if phase.objective == "labels":
                if self.data.labels == 0:
                    raise ValueError(
                        f"train.phases.{index}.objective is `labels`, but data.labels keeps none; keep some, or distil"
                    )
                continue
            if phase.objective in ("joint", "reward"):
                if group < 2:
                    raise ValueError(
                        f"train.phases.{index}.objective `{phase.objective}` compares the responses of a question, so "
                        f"responses.student + responses.teacher must be 2 or more, not {group}"
                    )
                if not (self.reward.accuracy or self.reward.distillation):
                    raise ValueError(
                        f"train.phases.{index}.objective is `{phase.objective}`, but reward.accuracy and "
                        "reward.distillation are both off; switch one on, or use `distill`"
                    )
            stages, lengths = self.mask.stages, self.mask.teacher_lengths or [1] * len(self.teachers)
            if shortest(phase.steps, lengths, self.mask.stage_lengths or [1] * stages) < 1:
                raise ValueError(
                    f"train.phases.{index}.steps ({phase.steps}) leaves one of the {stages} mask stages of "
                    f"{len(self.teachers)} teacher(s) without a step; give each stage at least one"
                )
        return self

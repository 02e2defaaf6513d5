"""Every command of masters-edge, a screen each and no logic: arguments in, one call, what it says.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from masters_edge.common.errors import UserError

app = typer.Typer(
    name="masters-edge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a large vision-language model into one that answers on a phone or an edge board.",
)

RecipeFile = Annotated[Path, typer.Argument(help="Recipe (YAML), such as recipes/demo.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Values to change: key.sub=value ...", metavar="[KEY=VALUE]...")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
RunFolder = Annotated[
    Path | None, typer.Option("--run", help="Run folder; default: the newest finished run below ./runs.")
]
Lan = Annotated[
    bool, typer.Option("--lan", help="Let other machines of the network open a browser's link, not this one alone.")
]
Https = Annotated[
    bool,
    typer.Option(
        "--https/--no-https",
        help="With --lan: by HTTPS with a certificate made here, or without, for one thread and no live camera.",
    ),
]
LinkPort = Annotated[int | None, typer.Option("--port", help="Port of a browser's link. Default: 8770.")]


@app.command()
def demo() -> None:
    """Distil, export and measure a student with what masters-edge brings; 6 to 8 minutes on two cores, into runs/demo.

    Example: masters-edge demo
    """
    _quiet()
    from masters_edge import workflow

    workflow.demo()


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this one, for a file of your own.", show_default=False)
    ] = None,
) -> None:
    """List the recipes that come with masters-edge, or print one.

    Example: masters-edge recipes mobile > my.yaml
    """
    from masters_edge.recipe import shipped

    if name is not None:
        typer.echo(shipped.copied(name), nl=False)
        return
    listed = shipped.shipped()
    width = max(len(one.name) for one in listed)
    for one in listed:
        typer.echo(f"{one.name:{width}}  {one.about}")
    typer.echo(
        "Copy one: masters-edge recipes NAME > my.yaml. Those in accelerate/ are for: accelerate launch --config_file"
    )


@app.command()
def distill(recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Distil a student: make responses, train, save. The same command goes on after an interruption.

    Example: masters-edge distill recipes/demo.yaml reward.kl_beta=0.05
    """
    _train(recipe, overrides or [], dry_run, only_generate=False)


@app.command()
def generate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    join: Annotated[
        bool, typer.Option("--join", help="Help another generate or distill, already running, to fill its run folder.")
    ] = False,
) -> None:
    """Make and score the offline responses of the first phase alone; `distill` then trains on them.

    Example: masters-edge generate recipes/demo.yaml
    """
    _train(recipe, overrides or [], dry_run, only_generate=True, join=join)


def _train(recipe: Path, overrides: list[str], dry_run: bool, only_generate: bool, join: bool = False) -> None:
    from masters_edge import recipe as recipes

    asked = recipes.load(recipe, overrides)  # a recipe that is wrong says so before torch is loaded
    if dry_run:
        from masters_edge.common.display import say
        from masters_edge.run import outline

        for line in outline.lines(asked, recipe):
            say(line)
        return
    _quiet()
    from masters_edge import distill as stage

    stage.distill(recipe, overrides, only_generate=only_generate, join=join)
    from masters_edge.common import processes

    processes.leave()


def _part(option: str, what: str) -> Any:
    return typer.Option(f"--quant.{option}", help=f"Other scheme for {what}, in every bundle.")


@app.command()
def export(
    student: Annotated[
        Path | None, typer.Option(help="Student folder; default: the newest finished run's student.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Device format (coreml, executorch, gguf, onnx, onnx_portable, openvino); repeat for several. "
            "Default: the recipe's."
        ),
    ] = None,
    quant: Annotated[
        list[str] | None,
        typer.Option(
            help="Scheme (fp32, fp16, int8, int4, int4-g64, int4-g128, int8-a8, int4-a8) or preset (quality, balanced, "
            "smallest, auto); repeat for several. Default: the recipe's."
        ),
    ] = None,
    vision: Annotated[str | None, _part("vision", "the vision encoder")] = None,
    connector: Annotated[str | None, _part("connector", "the layers between vision and language model")] = None,
    embeddings: Annotated[str | None, _part("embeddings", "the token embedding")] = None,
    decoder: Annotated[str | None, _part("decoder", "the language model's layers")] = None,
    head: Annotated[str | None, _part("head", "the output head")] = None,
    tied: Annotated[
        str | None, typer.Option("--quant.tied", help="A head tied to the embedding: shared with it, or split.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--quant.method", help="How integers are chosen (rtn, hqq, gptq).")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What --quant auto may spend on all weights: 92MB, or bits a weight: 4.9bits. Default: 2.5% more than "
            "with no layer bought."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the bundles; default: beside the student.")] = None,
    run: RunFolder = None,
) -> None:
    """Write the student in a device's file format, checked against PyTorch on real samples.

    Example: masters-edge export --target onnx --quant int4 --quant.vision int8
    """
    _quiet()
    from masters_edge import workflow

    parts = dict(vision=vision, connector=connector, embeddings=embeddings, decoder=decoder, head=head)
    workflow.export(
        student=student,
        targets=target,
        schemes=quant,
        parts={part: scheme for part, scheme in parts.items() if scheme is not None},
        tied=tied,
        method=method,
        budget=budget,
        out=out,
        run=run,
    )


@app.command()
def bench(
    bundle: Annotated[
        list[Path] | None, typer.Argument(help="Bundles; default: all of the newest finished run.", show_default=False)
    ] = None,
    run: RunFolder = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Where to measure: local; a board such as ssh://pi@kitchen.local; browser, or browser:NAME, any phone "
            "or computer that opens a link; adb, or adb:SERIAL, an Android phone on a cable. Repeat for several. "
            "Default: local."
        ),
    ] = None,
    lan: Lan = False,
    https: Https = True,
    port: LinkPort = None,
    backend: Annotated[
        str,
        typer.Option(help="Runtime of the bundles, by name (in browsers wasm or webgpu); auto takes the fastest."),
    ] = "auto",
    suite: Annotated[
        str | None,
        typer.Option(
            help="What to ask: easy-vqa, a file (JSON lines, Parquet, ...), a folder, or the id of a `datasets` data "
            "set. Default: the recipe's test questions."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="How answers are scored (exact_match, relaxed_accuracy, anls, multiple_choice). Default: the suite's, "
            "else exact_match."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --suite.")] = None,
    name: Annotated[str | None, typer.Option(help="What the report calls --suite.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of --suite with pictures; default: image.")] = None,
    question_column: Annotated[
        str | None, typer.Option(help="Column of --suite with questions; default: question.")
    ] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column of --suite with answers; default: answer.")] = None,
    questions: Annotated[int | None, typer.Option(help="Ask this many test questions; default: the recipe's.")] = None,
    cases: Annotated[
        bool, typer.Option("--cases/--no-cases", help="Time two picture sizes and two prompt lengths as well.")
    ] = True,
    sustain: Annotated[
        str | None, typer.Option(help="Then have each bundle answer without a pause for so long, such as 10m.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Runtime threads; default: the device's cores.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was measured before.")] = False,
) -> None:
    """Measure accuracy and latency of the exported files, beside the teacher and the untouched student.

    Example: masters-edge bench --questions 1000
    """
    _quiet()
    from masters_edge import workflow
    from masters_edge.benchmarks.measure import Settings, seconds_of
    from masters_edge.benchmarks.suites import SuiteChoice

    columns = dict(image_column=image_column, question_column=question_column, answer_column=answer_column)
    workflow.bench(
        bundles=bundle,
        run=run,
        devices=list(dict.fromkeys(device or ["local"])),
        suite=SuiteChoice(
            source=suite,
            metric=metric,
            split=split,
            name=name,
            columns={key: column for key, column in columns.items() if column is not None},
        ),
        settings=Settings(
            backend=backend,
            questions=questions,
            cases=cases,
            sustain_s=seconds_of(sustain) if sustain else 0.0,
            threads=threads,
            fresh=fresh,
            lan=lan,
            https=https,
            port=port,
        ),
    )


@app.command()
def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="results.json files, or folders that hold one; default: of the newest finished run.",
            show_default=False,
        ),
    ] = None,
    run: RunFolder = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: <run>/report.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Name the best bundle inside limits: ttft=500ms,size=200MB,memory=300MiB,accuracy=80 ..."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Say what got better and worse, beyond noise.", metavar="OLD NEW")
    ] = None,
) -> None:
    """Draw accuracy against latency and much more: a slide (PNG), a page (HTML), Markdown and CSV.

    With --budget it prints the best bundle instead (exit status 1: none fits), with --compare a comparison.

    Example: masters-edge report --budget ttft=500ms,size=200MB
    """
    from masters_edge import workflow

    if budget is not None and compare is not None:
        raise UserError("--budget and --compare answer different questions; give one of them")
    if compare is not None:
        if results or run is not None:
            raise UserError("--compare takes its two sets of results itself; leave RESULTS and --run away")
        workflow.compare(old=compare[0], new=compare[1], out=out)
    elif budget is not None:
        if not workflow.budget(limits=budget, results=results, run=run):
            raise typer.Exit(1)
    else:
        workflow.report(results=results, run=run, out=out)


@app.command()
def ask(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, such as runs/demo/bundles/onnx-int4.")],
    image: Annotated[Path, typer.Argument(help="Picture (PNG, JPEG).")],
    question: Annotated[str, typer.Argument(help="Question about the picture.")],
    backend: Annotated[
        str, typer.Option(help="Runtime to answer with; auto takes what a short measurement finds fastest here.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="Runtime threads; default: the machine's cores.")] = None,
) -> None:
    """Ask an exported student; no torch needed.

    Example: masters-edge ask runs/demo/bundles/onnx-int4 photo.png "what color is the shape?"
    """
    from masters_edge import workflow

    workflow.ask(bundle, image, question, threads, backend)


@app.command()
def judge(
    recipe: RecipeFile,
    overrides: Overrides = None,
    questions: Annotated[int, typer.Option(min=1, help="Sample so many questions, one response of each.")] = 200,
    responses: Annotated[
        Path | None,
        typer.Option(help="JSON lines with question, response, answer; default: what the recipe's run generated."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="Rule to compare with, for responses that have none of their own (exact_match, ...)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; default: judge in the run folder, or beside the file.")
    ] = None,
) -> None:
    """Compare the recipe's judge with the rules on responses that both can score: agreement, kappa, disagreements.

    Example: masters-edge judge recipes/demo.yaml reward.judge.model=Qwen/Qwen3-8B --questions 500
    """
    _quiet()
    from masters_edge.agreement import command as agreement

    agreement.report(recipe, overrides or [], questions=questions, responses=responses, rule=rule, out=out)


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, such as runs/demo/bundles/onnx-int4.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    threads: Annotated[int | None, typer.Option(help="Runtime threads; default: the machine's cores.")] = None,
    backend: Annotated[str, typer.Option(help="Runtime to answer with; auto chooses.")] = "auto",
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Ask requests for this key; better given in the environment, as other users see command lines.",
            envvar="MASTERS_EDGE_API_KEY",
        ),
    ] = None,
) -> None:
    """Serve a bundle: an OpenAI-compatible endpoint, and a page to try the student with one's own pictures.

    Example: masters-edge serve runs/demo/bundles/onnx-int4 --port 8080
    """
    _quiet()
    from masters_edge.serve import command

    command.serve(bundle, host, port, threads=threads, backend=backend, api_key=api_key)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, such as runs/demo/bundles/onnx-int4.")],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON, if every file is right.")] = False,
) -> None:
    """Show what a bundle is and what it was made of, and check every file against the manifest.

    Example: masters-edge inspect runs/demo/bundles/onnx-int4
    """
    from masters_edge.bundle import inspection

    inspection.inspect(bundle, as_json=json)


@app.command()
def mask(
    teacher: Annotated[str, typer.Argument(help="Checkpoint: a folder saved by transformers, or a hub id.")],
    out: Annotated[Path, typer.Argument(help="New folder for the masked checkpoint.")],
    ratio: Annotated[float, typer.Option(help="Share of each tensor's weights to zero, smallest magnitudes first.")],
    include: Annotated[
        list[str] | None, typer.Option(help="Glob of tensors that may be masked; repeat for several. Default: all.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Glob of tensors that are never masked; repeat for several.")
    ] = None,
) -> None:
    """Write a checkpoint with the smallest weights of each tensor zeroed, one tensor in memory at a time.

    Example: masters-edge mask ./teacher --ratio 0.2 ./teacher-masked
    """
    _quiet()
    from masters_edge.teacher import masked_checkpoint as stage

    stage.mask_checkpoint(teacher, out, ratio, include or ["*"], exclude or [])


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Plan for so many GPUs, one process each.")] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Memory of one GPU, such as 80GiB.")] = None,
    shard: Annotated[str, typer.Option(help="What cuts models up over GPUs: none, fsdp2, zero3.")] = "none",
    measure: Annotated[bool, typer.Option("--measure", help="Run the models for a moment, and say the time.")] = False,
    rate: Annotated[Path | None, typer.Option(help="Say the time from rates measured before (JSON).")] = None,
    rate_out: Annotated[Path | None, typer.Option(help="Write the rates that --measure finds.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Length of a prompt, image included.")] = None,
    response_tokens: Annotated[float | None, typer.Option(min=1, help="Mean length of a response.")] = None,
    config_of: Annotated[
        list[str] | None, typer.Option(help="NAME=config.json of a model whose config can't be reached; repeatable.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the plan as JSON as well.")] = None,
) -> None:
    """Say what a recipe takes before it starts: parameters, memory by part, tokens, disk, time where it was measured.

    Example: masters-edge plan recipes/paper-qwen3-vl-8b.yaml --gpus 8 --gpu-memory 80GiB --shard fsdp2
    """
    _quiet()
    from masters_edge.plan import command

    command.show(
        recipe,
        overrides or [],
        gpus=gpus,
        gpu_memory=gpu_memory,
        shard=shard,
        rate=rate,
        measure=measure,
        rate_out=rate_out,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        config_of=config_of or [],
        out=json,
    )


@app.command()
def preview(
    model_or_config: Annotated[
        str,
        typer.Argument(
            help="smolvlm-256m, smolvlm-500m, qwen3-vl-2b, internvl3.5-1b; or a config.json, a checkpoint folder, a "
            "hub id.",
            show_default=False,
        ),
    ],
    device: Annotated[
        str, typer.Option(help="Where to measure: local, a board such as ssh://pi@kitchen.local, or browser.")
    ] = "local",
    lan: Lan = False,
    https: Https = True,
    port: LinkPort = None,
    target: Annotated[list[str] | None, typer.Option(help="Device format; repeat for several. Default: onnx.")] = None,
    quant: Annotated[
        list[str] | None, typer.Option(help="Scheme or preset; repeat for several. Default: int4, int8, fp32.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all of it; default: runs/preview/<name>.")] = None,
    threads: Annotated[int | None, typer.Option(help="Runtime threads; default: the device's cores.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking, large as it may be.")] = False,
) -> None:
    """Say what an architecture costs on a device before it is trained: random weights, exported and measured.

    Example: masters-edge preview smolvlm-256m --target onnx --quant int4 --device ssh://pi@kitchen.local
    """
    _quiet()
    from masters_edge.benchmarks.measure import Settings
    from masters_edge.preview import command

    how = Settings(threads=threads, lan=lan, https=https, port=port)
    command.preview(model_or_config, targets=target, schemes=quant, device=device, out=out, how=how, yes=yes)


@app.command()
def ablate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train every arm with so many seeds.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, one thread each if more than one.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for all of it; default: runs/ablate-<recipe>.")] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Arms to run: components, masks, responses, split, rewards, policies, chain, conditions; repeat for "
            "several. Default: all."
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Only arms with this in their name, and those they are compared with; repeat for several."),
    ] = None,
    chain: Annotated[
        list[str] | None,
        typer.Option(help="Checkpoint of a smaller teacher, to stand before the recipe's own; repeat, small to large."),
    ] = None,
    damage: Annotated[
        float | None, typer.Option(help="Also try a teacher with this share of its weights zeroed for good.")
    ] = None,
    strong: Annotated[
        str | None,
        typer.Option(help="Student that knows the task already. Default: what the arm + multi-response leaves."),
    ] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Test questions asked; default: all.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Say what each part of the method is worth: arms of a recipe with equal steps, over seeds, with intervals.

    The same command goes on after an interruption. Exit status 2: some arms failed.

    Example: masters-edge ablate recipes/demo.yaml --seeds 5 --jobs 2 --group components
    """
    _quiet()
    from masters_edge.ablate import command

    asked = command.AblateOptions(
        recipe=recipe,
        overrides=tuple(overrides or ()),
        seeds=seeds,
        jobs=jobs,
        out=out or Path("runs") / f"ablate-{recipe.stem}",
        groups=tuple(group or ()),
        arms=tuple(arm or ()),
        chain=tuple(chain or ()),
        damage=damage,
        strong=strong,
        questions=questions,
    )
    if failed := command.ablate(asked, dry_run=dry_run):
        name, sentence = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of the trainings failed, the first of them {name}: {sentence}")


@app.command()
def validate(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe without running it: keys, types, bounds, combinations, checkpoint folders, files of questions.

    Example: masters-edge validate recipes/demo.yaml
    """
    from masters_edge import recipe as recipes
    from masters_edge.common.display import say
    from masters_edge.data import sources

    checked = recipes.load(recipe, overrides or [])
    for name in (checked.student, *checked.teachers):
        recipes.checkpoint(name, recipe)
    for key, source in (("data.train", checked.data.train), ("data.test", checked.data.test)):
        if source is not None:
            try:
                sources.check(source.source, recipe.parent)
            except UserError as error:
                raise UserError(f"{recipe}: {key}: {error}") from None
    say(f"{recipe} is valid")


@app.command()
def schema() -> None:
    """Print the recipe's JSON Schema, for editors.

    Example: masters-edge schema > recipe.schema.json
    """
    import json

    from masters_edge.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what to install for the rest.

    Example: masters-edge doctor
    """
    from masters_edge import doctor as machine
    from masters_edge.common.display import console

    console.print(machine.table())


INTERRUPTED, TERMINATED = 130, 143
# What the system refuses because of where the files are; whoever calls can mend that.
REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)


def _quiet() -> None:
    from masters_edge.common.quiet import hush

    hush()


def main() -> None:
    """Run a command; a user's mistake is one sentence and exit status 2."""
    from masters_edge.common.files import disk_full

    _hear_sigterm()
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        from masters_edge.common.extras import extra_with

        if (extra := extra_with(error.name or "")) is None:
            raise
        _fail(f"this command needs {error.name}; install it with: pip install 'masters-edge[{extra}]'", 2)
    except SystemExit as end:  # Typer turns Ctrl-C into status 130 and says nothing
        if end.code in (INTERRUPTED, TERMINATED):
            _fail("interrupted; the same command goes on where it stopped", end.code)
        raise
    except Exception as error:
        if disk_full(error):
            said = " ".join(str(error).split())
            _fail(f"the disk is full ({said}); make room, and the same command goes on where it stopped", 2)
        if isinstance(error, OSError) and error.errno in REFUSED:
            where = error.filename or "a file"
            _fail(f"{where} can't be used ({error.strerror}); mend that, and the same command goes on", 2)
        raise


def _hear_sigterm() -> None:
    """End at SIGTERM as at Ctrl-C, which process 1 (a container's) would ignore otherwise; the second one ends at once.

    Not below a launcher: it wants its processes gone, also those that wait in native code for the others.
    """
    if "RANK" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)


def _fail(sentence: str, status: int) -> None:
    from masters_edge.common import processes
    from masters_edge.common.plain import printable

    with processes.first_to_fail() as speaks:
        if speaks:
            typer.echo(printable(f"masters-edge: {sentence}"), err=True)
    sys.exit(status)

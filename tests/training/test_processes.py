"""Two processes and one end with the same student, whatever wraps it; what went wrong is said once."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.responses import store
from masters_edge.training import sharded
from tests import tiny
from tests.conftest import TINY_RECIPE
from tests.training import runs

TRAINED = ["train.phases.0.steps=5", "train.log_every=1", "train.eval_every=3"]


@pytest.fixture(scope="module")
def one_process(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others here are compared with."""
    home = tmp_path_factory.mktemp("one")
    for name in ("student", "teacher"):
        (home / name).symlink_to(models / name, target_is_directory=True)
    (home / "tiny.yaml").write_text(TINY_RECIPE)
    return distill(home / "tiny.yaml", [*TRAINED, f"run_dir={home / 'run'}"]).folder


def same_rows(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*.parquet"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*.parquet"))
    for name in names:
        for a, b in zip(store.read(one / name), store.read(other / name), strict=True):
            assert {k: str(v) for k, v in a.items()} == {k: str(v) for k, v in b.items()}


@pytest.mark.wide
def test_two_processes_train_the_same_student(one_process: Path, tiny_recipe: Path) -> None:
    home = tiny_recipe.parent
    done = runs.launch(runs.CONFIGS / "ddp-cpu.yaml", "distill", tiny_recipe.name, *TRAINED, "run_dir=two", cwd=home)
    assert done.returncode == 0, done.stderr
    runs.assert_same_run(one_process, home / "two", home / "student")
    same_rows(one_process, home / "two")
    assert done.stdout.count("student: two/student") == 1 and "2 processes, cpu" in done.stdout
    assert (home / "two/phase-0-joint/checkpoints/checkpoint-5/rng_state_1.pth").exists()  # they were two
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_two_processes_train_a_student_with_weights_that_nothing_reads(tiny_recipe: Path, monkeypatch) -> None:
    """LLaVA-OneVision's last vision norm: plain DDP would wait for its gradient for ever."""
    monkeypatch.chdir(tiny_recipe.parent)
    for name, seed in (("llava", 1), ("llava-teacher", 2)):
        tiny.llava_onevision(tiny_recipe.parent / name, seed)
    models = ["student=./llava", "teachers=[./llava-teacher]", *TRAINED]
    one = distill(tiny_recipe, [*models, "run_dir=one"]).folder
    done = runs.torchrun("distill", tiny_recipe.name, *models, "run_dir=two", cwd=tiny_recipe.parent)
    assert done.returncode == 0, done.stderr
    runs.assert_same_run(one, tiny_recipe.parent / "two", tiny_recipe.parent / "llava")


@pytest.mark.wide
def test_accumulated_gradients_train_the_same_student(one_process: Path, tiny_recipe: Path) -> None:
    where = f"run_dir={tiny_recipe.parent / 'parts'}"
    run = distill(tiny_recipe, [*TRAINED, "train.questions_per_device=1", where])
    runs.assert_same_run(one_process, run.folder, tiny_recipe.parent / "student")


@pytest.mark.wide
def test_fsdp2_trains_the_same_student(one_process: Path, tiny_recipe: Path) -> None:
    """Student, reference and masked teacher cut up, tied embeddings, activation checkpointing, the shipped file."""
    home = tiny_recipe.parent
    module = "tests.training.engines_on_cpu"
    arguments = ["distill", tiny_recipe.name, *TRAINED, "run_dir=fsdp"]
    done = runs.launch(runs.CONFIGS / "fsdp2.yaml", *arguments, cwd=home, module=module)
    assert done.returncode == 0, done.stderr
    runs.assert_same_run(one_process, home / "fsdp", home / "student")
    assert (home / "fsdp/phase-0-joint/checkpoints/checkpoint-5/pytorch_model_fsdp_0").is_dir()  # it was cut up


@pytest.mark.slow
@pytest.mark.parametrize("lora", ["null", "{rank: 4, alpha: 8}"])
def test_fsdp2_trains_a_student_with_an_output_head_of_its_own(tiny_recipe: Path, monkeypatch, lora: str) -> None:
    """Qwen2.5-VL: its head is a unit of FSDP that nobody calls, since the loss reads its weight in chunks."""
    monkeypatch.chdir(tiny_recipe.parent)
    for name, seed in (("qwen", 1), ("qwen-teacher", 2)):
        tiny.qwen2_5_vl(tiny_recipe.parent / name, seed)
    models = ["student=./qwen", "teachers=[./qwen-teacher]", f"train.lora={lora}", *TRAINED]
    one = distill(tiny_recipe, [*models, "run_dir=one"]).folder
    arguments = ["distill", tiny_recipe.name, *models, "run_dir=two"]
    module = "tests.training.engines_on_cpu"
    done = runs.launch(runs.CONFIGS / "fsdp2.yaml", *arguments, cwd=tiny_recipe.parent, module=module)
    assert done.returncode == 0, done.stderr
    runs.assert_same_run(one, tiny_recipe.parent / "two", tiny_recipe.parent / "qwen")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero3_trains_the_same_student(one_process: Path, tiny_recipe: Path) -> None:
    """Every weight cut up, however small; DeepSpeed compiles a part of itself the first time (a minute, g++)."""
    home = tiny_recipe.parent
    config = yaml.safe_load((runs.CONFIGS / "zero3.yaml").read_text())
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    (home / "ds.json").write_text(json.dumps({"zero_optimization": zero, **dict.fromkeys(batch, "auto")}))
    config["deepspeed_config"] = {"deepspeed_config_file": str(home / "ds.json"), "zero3_init_flag": False}
    del config["mixed_precision"]
    (home / "zero3.yaml").write_text(yaml.safe_dump(config))
    done = runs.launch(
        home / "zero3.yaml",
        "distill",
        tiny_recipe.name,
        *TRAINED,
        "run_dir=zero3",
        cwd=home,
        module="tests.training.engines_on_cpu",
        DS_ACCELERATOR="cpu",
    )
    assert done.returncode == 0, done.stderr
    runs.assert_same_run(one_process, home / "zero3", home / "student")


@pytest.mark.wide
def test_an_error_of_two_processes_is_said_once(tiny_recipe: Path) -> None:
    """By the first process, and the launcher's own report comes behind it."""
    home = tiny_recipe.parent
    done = runs.torchrun("distill", tiny_recipe.name, "train.questions_per_step=5", cwd=home)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("masters-edge: ")]
    assert len(said) == 1 and "can't be dealt out to 2 processes" in said[0], done.stderr
    assert not (home / "runs").exists()


@pytest.mark.wide
def test_two_commands_on_one_run_folder_are_refused(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    command = [sys.executable, "-m", "masters_edge", "distill", tiny_recipe.name, "train.phases.0.steps=200"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while running.poll() is None and not Path("runs/tiny/run.json").exists():
            time.sleep(0.05)
        with pytest.raises(UserError, match="is in use by another masters-edge command"):
            distill(tiny_recipe, ["train.phases.0.steps=200"])
    finally:
        running.kill()
        running.wait()
    assert distill(tiny_recipe, ["train.phases.0.steps=200"], only_generate=True)  # a kill lets go of it


@pytest.mark.parametrize("path", sorted(runs.CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_accelerates(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes > 1 and not config.use_cpu
    if path.name != "ddp-cpu.yaml":
        assert config.mixed_precision == "bf16"
    if path.name == "fsdp2.yaml":
        assert config.fsdp_config["fsdp_version"] == 2 and not config.fsdp_config["fsdp_cpu_ram_efficient_loading"]
    if path.name == "zero3.yaml":
        assert config.deepspeed_config["zero_stage"] == 3 and not config.deepspeed_config["zero3_init_flag"]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "asks for FSDP1"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            "fsdp_cpu_ram_efficient_loading: false",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}, "zero3_init_flag: false"),
    ],
)
def test_models_loaded_in_parts_are_refused(environment: dict[str, str], sentence: str, monkeypatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        sharded.check()

"""Masked checkpoints on disk: bit for bit those of `MaskedTeacher`, whole folders, one tensor in memory, errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.families import load_model, load_processor
from masters_edge.teacher.masked_checkpoint import mask_checkpoint
from masters_edge.teacher.masking import MaskedTeacher
from tests import tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SmolVLM with tied embeddings, saved in several bfloat16 shards, with a file of notes beside them."""
    folder = tmp_path_factory.mktemp("mask") / "teacher"
    model = load_model(str(tiny.smolvlm(folder))).to(torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "notes").mkdir()
    (folder / "notes" / "history.txt").write_text("made by hand")
    (folder / "pytorch_model.bin").write_bytes(b"unmasked weights")
    return folder


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[n].view(torch.uint8), theirs[n].view(torch.uint8)) for n in ours)


@pytest.mark.parametrize("globs", [{}, {"include": ["*mlp*", "*embed*"], "exclude": ["*vision*"]}])
def test_a_sharded_tied_checkpoint_loads_as_the_masked_teacher(teacher: Path, tmp_path: Path, globs: dict) -> None:
    assert len(list(teacher.glob("*.safetensors"))) > 3
    mask_checkpoint(str(teacher), tmp_path / "masked", 0.2, **globs)
    expected = load_model(str(teacher))
    MaskedTeacher(expected, 0.2, **globs).set_ratio(0.2)
    found = load_model(str(tmp_path / "masked"))
    assert same(found, expected) and not same(found, load_model(str(teacher)))
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight


def test_every_other_file_is_copied_but_weights_of_other_formats(teacher: Path, tmp_path: Path, capsys) -> None:
    mask_checkpoint(str(teacher), tmp_path / "masked", 0.2)
    names = {str(p.relative_to(teacher)) for p in teacher.rglob("*") if p.is_file()}
    assert {str(p.relative_to(tmp_path / "masked")) for p in (tmp_path / "masked").rglob("*") if p.is_file()} == (
        names - {"pytorch_model.bin"}
    )
    for name in names - {"pytorch_model.bin"}:
        ours, theirs = (teacher / name).read_bytes(), (tmp_path / "masked" / name).read_bytes()
        if not name.endswith(".safetensors"):
            assert ours == theirs, name
        else:  # metadata, names and shapes
            length = int.from_bytes(ours[:8], "little")
            assert ours[: 8 + length] == theirs[: 8 + length] and len(ours) == len(theirs)
    load_processor(str(tmp_path / "masked"))
    assert "left out" in capsys.readouterr().out and [p.name for p in tmp_path.iterdir()] == ["masked"]


def test_ratio_0_and_float32_in_one_file(tmp_path: Path) -> None:
    tiny.smolvlm(tmp_path / "t")
    for ratio in (0.0, 0.37):
        mask_checkpoint(str(tmp_path / "t"), tmp_path / f"m{ratio}", ratio)
        expected = load_model(str(tmp_path / "t"))
        MaskedTeacher(expected, ratio).set_ratio(ratio)
        assert same(load_model(str(tmp_path / f"m{ratio}")), expected)


@pytest.mark.parametrize(
    ("change", "ratio", "said"),
    [
        (None, 1.0, "--ratio is 1, but must be at least 0 and less than 1"),
        (None, -0.1, "--ratio is -0.1"),
        ("no folder", 0.2, "there is no checkpoint folder"),
        ("hub", 0.2, "as a hub id it can't be fetched"),
        ("full out", 0.2, "exists and is not empty"),
        ("only bin", 0.2, "weights in .bin files only"),
        ("no weights", 0.2, "it is no checkpoint of transformers"),
        ("torn", 0.2, "is no whole safetensors file"),
        ("missing shard", 0.2, "is missing"),
        ("float8", 0.2, "a quantized weight"),
        ("torchao", 0.2, "names a quantizer (torchao), and quantized checkpoints are not loaded"),
        ("awq inside", 0.2, "names a quantizer (awq)"),
    ],
)
def test_each_mistake_is_one_sentence(
    tmp_path: Path, teacher: Path, change: str | None, ratio: float, said: str
) -> None:
    import shutil

    from safetensors.torch import save_file

    source, out = tmp_path / "t", tmp_path / "out"
    shutil.copytree(teacher, source)
    shards = sorted(source.glob("*.safetensors"))
    name = str(source)
    if change == "no folder":
        name = str(tmp_path / "nowhere")
    if change == "hub":
        name = "nobody/nothing"
    if change == "full out":
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
    if change in ("only bin", "no weights", "float8"):
        for path in [*shards, source / "model.safetensors.index.json"]:
            path.unlink()
    if change == "no weights":
        (source / "pytorch_model.bin").unlink()
    if change == "torn":
        shards[1].write_bytes(shards[1].read_bytes()[:-10])
    if change == "missing shard":
        shards[1].unlink()
    methods = {"torchao": {"quantization_config": {"quant_method": "torchao"}}}
    methods["awq inside"] = {"text_config": {"quantization_config": {"quant_method": "awq"}}}
    if change in methods:
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | methods[change]))
    if change == "float8":
        save_file({"w": torch.zeros(4, 4).to(torch.float8_e4m3fn)}, source / "model.safetensors")
    with pytest.raises(UserError) as error:
        mask_checkpoint(name, out, ratio)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob(".*.part")) and out.exists() == (change == "full out")


@pytest.mark.wide
def test_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """The process's peak, over that of importing the same, stays below half a shard: 96 MB in tensors of 16 MB."""
    from safetensors.torch import save_file

    source = tmp_path / "big"
    source.mkdir()
    torch.manual_seed(0)
    save_file({f"layer.{n}.weight": torch.randn(2048, 2048) for n in range(6)}, source / "model.safetensors")
    (source / "config.json").write_text("{}")
    code = """
import resource, sys
from pathlib import Path
from masters_edge.teacher.masked_checkpoint import mask_checkpoint
import torch, numpy
from masters_edge.teacher.masking import MaskedTeacher
layer = torch.nn.Linear(64, 64); MaskedTeacher(layer, 0.2).set_ratio(0.2)  # whatever torch loads at the first use
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mask_checkpoint(sys.argv[1], Path(sys.argv[2]), 0.2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    grown_mib = int(done.stdout.split()[-1]) / 1024
    assert grown_mib < 48, f"{grown_mib:.0f} MiB"


@pytest.mark.wide
def test_the_command_line_says_one_sentence_and_status_2(teacher: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "masters_edge", "mask"]
    done = subprocess.run(
        [*call, str(teacher), "--ratio", "0.2", str(tmp_path / "out"), "--exclude", "*vision*"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr and "20% of each tensor zeroed" in done.stdout, done.stderr
    assert "weight_map" in json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    done = subprocess.run(
        [*call, str(teacher), "--ratio", "0.2", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.strip().count("\n") == 0 and "not empty" in done.stderr


def test_globs_that_fit_no_tensor_are_refused_before_anything_is_written(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--include: no weight tensor of .* has a name like 'model.nothing..'"):
        mask_checkpoint(str(teacher), tmp_path / "masked", 0.2, include=["model.nothing.*"])
    with pytest.raises(UserError, match="--exclude: no weight tensor of .* has a name like 'vizion.'"):
        mask_checkpoint(str(teacher), tmp_path / "masked", 0.2, exclude=["vizion*"])
    assert not (tmp_path / "masked").exists()


def test_a_recipes_globs_are_held_against_each_teachers_config(teacher: Path) -> None:
    from masters_edge import Recipe
    from masters_edge.teacher import masks

    content = {"student": "s", "teachers": [str(teacher)], "data": {"train": {"source": "easy-vqa"}}}
    masks.check(Recipe.model_validate(content | {"mask": {"include": ["*mlp*"]}}), [str(teacher)])
    with pytest.raises(UserError, match="mask.include: no weight tensor of .*teacher has a name like 'no.such"):
        masks.check(Recipe.model_validate(content | {"mask": {"include": ["*mlp*", "no.such.*"]}}), [str(teacher)])

"""Bundles of strangers, put before `inspect` and `ask`: one sentence each, status 2, no traceback, no harm."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masters_edge.bundle import manifest as manifests
from masters_edge.bundle import onnx_files
from masters_edge.common.errors import UserError
from masters_edge.runtime import Student
from masters_edge.runtime.backends import llamacpp
from tests import pictures
from tests.export import bundles
from tests.hostile.command_line import run

DECODER = "onnx/decoder_model_merged.onnx"
ESCAPES = "\x1b[2J\x1b[Hevery file is as it was written\x1b[8m\x1b]0;PWNED\x07\x9b2J\u202e"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def good() -> Path:
    return bundles.exported("smolvlm", "fp32", splitting=True)


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    shutil.copytree(good, tmp_path / "elsewhere")
    return shutil.copytree(good, tmp_path / "bundle")


def listed(change: Change) -> Change:
    """The change, with every hash in the manifest made to fit it."""

    def made(folder: Path) -> None:
        manifest = manifests.read(folder)
        change(folder)
        manifests.write(folder, manifest)

    return made


def manifest(**values: Any) -> Change:
    """Values of the manifest, by a path with dots (`graphs__decoder`)."""

    def made(folder: Path) -> None:
        path = folder / "manifest.json"
        found = inner = json.loads(path.read_text())
        for name, value in values.items():
            *outer, last = name.split("__")
            for key in outer:
                inner = inner[key]
            inner[last] = value(inner.get(last)) if callable(value) else value
            inner = found
        path.write_text(json.dumps(found))

    return made


def also(name: str, content: bytes, sha256: str | None = None) -> Change:
    """One more line in the manifest's list of files."""
    entry = {"path": name, "sha256": sha256 or hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return manifest(files=lambda files: [*files, entry])


def setting(file: str, *keys: str, value: Any) -> Change:
    def made(folder: Path) -> None:
        found = inner = json.loads((folder / file).read_text())
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (folder / file).write_text(json.dumps(found))

    return listed(made)


def text(file: str, content: str | bytes) -> Change:
    return listed(
        lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    )


def swapped(file: str, make: Callable[[Path], Any]) -> Change:
    """Another thing in a file's place, and nothing of it in the manifest."""

    def made(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return made


def external(location: str, offset: str = "0", length: str = "64") -> Change:
    """The decoder's first large tensor lies elsewhere."""

    def change(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / DECODER)
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length or str(size))):
            tensor.external_data.add(key=key, value=value)
        (folder / DECODER).write_bytes(model.SerializeToString())

    return listed(change)


MANIFESTS: dict[str, tuple[Change, str]] = {
    "a graph outside": (manifest(graphs__decoder=f"../elsewhere/{DECODER}"), "is no name of a file inside"),
    "an absolute graph": (manifest(graphs__decoder="/etc/passwd"), "is no name of a file inside"),
    "a graph of no list": (manifest(graphs__decoder="Thumbs.db"), "is none of its files"),
    "a file outside": (also("../secret.txt", b"secret"), "is no name of a file inside"),
    "an absolute file": (also("/etc/hostname", b"x"), "is no name of a file inside"),
    "a file with an escape": (also("a\x1b[2Jb", b"x"), "is no name of a file inside"),
    "a file that is not there": (also("gone", b"x"), "the file gone is missing"),
    "a file twice": (manifest(files=lambda files: [*files, files[0]]), "twice"),
    "no hash": (also("config.json", b"x", "0"), "sha256"),
    "a size of no disk": (manifest(files=lambda f: [{**f[0], "bytes": 10**400}, *f[1:]]), "bytes"),
    "no number": (manifest(parity__tolerance=float("nan")), "tolerance"),
    "a key of its own": (manifest(surprise=1), "surprise"),
    "a note of a book": (manifest(notes=["x" * 10_000]), "notes"),
    "a manifest in itself": (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "can't be read"),
    "a manifest of nothing": (lambda folder: (folder / "manifest.json").write_bytes(b""), "can't be read"),
    "a manifest for ever": (swapped("manifest.json", os.mkfifo), "no regular file, but a FIFO"),
    "a manifest elsewhere": (
        swapped("manifest.json", lambda p: p.symlink_to("../elsewhere/manifest.json")),
        "link out",
    ),
    "a FIFO": (swapped("config.json", os.mkfifo), "no regular file, but a FIFO"),
    "a device": (swapped("config.json", lambda path: path.symlink_to("/dev/zero")), "link out of the folder"),
    "a link out": (swapped("config.json", lambda path: path.symlink_to("../elsewhere/config.json")), "link out"),
    "one FIFO more": (lambda folder: os.mkfifo(folder / "more"), "no regular file, but a FIFO"),
    "one link more": (lambda folder: (folder / "more").symlink_to("/etc/passwd"), "link out of the folder"),
    "a linked folder": (lambda folder: (folder / "more").symlink_to("../elsewhere"), "is a linked folder"),
    "one file more": (lambda folder: (folder / "more").write_text("x"), "does not belong to the bundle"),
    "a pickle": (text("weights.bin", pickle.dumps({"a": list(range(500))})), "is a pickle"),
    "an external address": (external("*/_ORT_MEM_ADDR_/*", "4096"), "is no name of a file inside"),
    "external data outside": (external("../../secret.txt"), "is no name of a file inside"),
    "external data of the machine": (external("/etc/passwd"), "is no name of a file inside"),
    "external data of no list": (external("Thumbs.db"), "is missing"),
    "external data beyond the end": (external("vision_encoder.onnx", "999999999"), "reads beyond the end"),
    "external data before the start": (external("vision_encoder.onnx", "-5"), "reads beyond the end"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_inspect_and_ask_refuse_it(case: str, bundle: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change, words = MANIFESTS[case]
    change(bundle)
    picture = bundle.parent / "p.png"
    pictures.noise((40, 30)).save(picture)
    run(["inspect", bundle], capsys, monkeypatch).refused(words)
    if case != "a pickle":  # nothing opens it
        run(["ask", bundle, picture, "what?", "--backend", "onnxruntime"], capsys, monkeypatch).refused(words)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "../../secret.txt", "/etc/passwd", "nowhere"])
def test_no_runtime_reads_elsewhere_even_unchecked(backend: str, location: str, bundle: Path) -> None:
    """As a measuring process opens a bundle whose hashes another has checked."""
    external(location, "4096")(bundle)
    with pytest.raises(UserError, match="is no name of a file inside|is missing"):
        Student.load(bundle, backend=backend, threads=1, check=False)


CONTEXT = ("config.json", "text_config", "max_position_embeddings")
ASKED: dict[str, tuple[Change, str]] = {
    "no context": (
        setting(*CONTEXT, value=0),
        "max_position_embeddings",
    ),
    "a context of words": (
        setting(*CONTEXT, value="x"),
        "valid integer",
    ),
    "no model type": (setting("config.json", "model_type", value=3), "model_type"),
    "another model type": (setting("config.json", "masters_edge_model_type", value="evil"), "model_type 'evil'"),
    "no text": (setting("config.json", "text_config", value=[]), "text_config"),
    "an end of words": (setting("generation_config.json", "eos_token_id", value="x"), "eos_token_id"),
    "no tokens": (setting("generation_config.json", "max_new_tokens", value=-1), "max_new_tokens"),
    "tokens": (setting("processor_config.json", "image_seq_len", value=10**9), "image_seq_len"),
    "other tokens": (setting("processor_config.json", "image_seq_len", value=5), "places for image features"),
    "a frame of one pixel": (setting("preprocessor_config.json", "max_image_size", "longest_edge", value=1), "tiles"),
    "no size": (setting("preprocessor_config.json", "size", value={}), "longest_edge is missing"),
    "another frame": (setting("preprocessor_config.json", "max_image_size", "longest_edge", value=8), "the prompt has"),
    "no tokenizer": (text("tokenizer.json", "{}"), "tokenizer.json can't be read"),
    "a tokenizer of noise": (text("tokenizer.json", b"\xff" * 99), "tokenizer.json can't be read"),
    "a template of loops": (
        text("chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "does far more than a chat template",
    ),
    "a template of escapes": (
        text("chat_template.jinja", "{{ raise_exception('\x1b[2Jall is well') }}"),
        "refuses the question ([2Jall is well)",
    ),
    "a template of another file": (text("chat_template.jinja", "{% include '/etc/passwd' %}"), "refuses the question"),
    "a template of code": (text("chat_template.jinja", "{{ ''.__class__.__mro__ }}"), "refuses the question"),
    "a graph of noise": (text(DECODER, b"\x00" * 1000), "can't load"),
    "another graph": (listed(lambda f: shutil.copy(f / "onnx/embed_tokens.onnx", f / DECODER)), "don't fit"),
    "a graph of another kind": (manifest(graphs__decoder="config.json"), "the graph config.json is no .onnx"),
    "no decoder": (manifest(graphs=lambda graphs: {"vision_encoder": graphs["vision_encoder"]}), "no graph for"),
    "another target": (manifest(target="evil"), "can't run on backend"),
}


@pytest.mark.parametrize("case", ASKED)
def test_ask_refuses_it(case: str, bundle: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change, words = ASKED[case]
    change(bundle)
    picture = bundle.parent / "p.png"
    pictures.noise((80, 60)).save(picture)
    run(["ask", bundle, picture, "what?", "--backend", "onnxruntime"], capsys, monkeypatch).refused(words)


def test_inspect_says_what_is_there_and_nothing_to_the_terminal(
    bundle: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(
        notes=[ESCAPES, "[red]markup[/red] [/] :smile:"],
        model_type=ESCAPES,
        scheme=ESCAPES,
        student__name=ESCAPES,
        quantization__method=ESCAPES,
        quantization__schemes=lambda schemes: schemes | {"[/]": "[/bold]", ESCAPES: ESCAPES},
        quantization__parts=lambda parts: parts | {"[/]": "[blink]"},
        versions=lambda versions: versions | {ESCAPES: ESCAPES},
    )(bundle)
    said = run(["inspect", bundle], capsys, monkeypatch)
    said.clean()
    assert said.status == 0 and "[red]markup[/red] [/] :smile:" in said.out and "[blink]" in said.out
    said = run(["inspect", bundle, "--json"], capsys, monkeypatch)
    said.clean()
    assert json.loads(said.out)["notes"][0] == ESCAPES


def test_an_answer_says_nothing_to_the_terminal(bundle: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of an answer come from the bundle's tokenizer."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = found["model"]["vocab"]
        found["model"] |= {"vocab": {f"\x1b[2J{word}": number for word, number in vocabulary.items()}, "merges": []}
        found["decoder"] = None
        (folder / "tokenizer.json").write_text(json.dumps(found))

    listed(change)(bundle)
    picture = bundle.parent / "p.png"
    pictures.noise((40, 30)).save(picture)
    said = run(["ask", bundle, picture, "what?", "--backend", "onnxruntime"], capsys, monkeypatch)
    said.clean()
    assert said.status == 2 or "[2J" in said.out


LLAMACPP = {"layout": "frames", "replaces": "<image>", "settings": {"image_min_tokens": 1}, "image_token_id": 7}


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"mcp_servers_json": '{"mcpServers": {"x": {"command": "/bin/sh", "args": ["-c", "id"]}}}'}},
        {"settings": {"mcp_servers_config": "/tmp/x"}},
        {"settings": {"chat_template": "{{ 1 }}"}},
        {"settings": {"model": {"path": "/etc/passwd"}}},
        {"settings": {"slot_save_path": "/tmp"}},
        {"settings": {"public_path": "/"}},
        {"settings": {"image_min_tokens": "1"}},
        {"settings": {"image_min_tokens": 10**9}},
        {"settings": {"image_min_tokens": True}},
        {"settings": {"__class__": 1}},
        {"settings": [1]},
        {"layout": "mosaic"},
        {"replaces": ""},
        {"image_token_id": -1},
        {"more": 1},
    ],
    ids=str,
)
def test_a_bundle_sets_nothing_of_llamacpp_but_tokens_of_a_picture(tmp_path: Path, change: dict[str, Any]) -> None:
    """llama.cpp's parameters start programs, and read and write files."""
    (tmp_path / "llamacpp.json").write_text(json.dumps(LLAMACPP | change))
    with pytest.raises(UserError, match=r"llamacpp\.json: "):
        llamacpp.read_handing(tmp_path)


def test_what_the_export_writes_is_taken(tmp_path: Path) -> None:
    (tmp_path / "llamacpp.json").write_text(json.dumps(LLAMACPP))
    assert llamacpp.read_handing(tmp_path).settings.model_dump(exclude_none=True) == {"image_min_tokens": 1}


def test_every_place_of_external_data_is_looked_at() -> None:
    """Against onnx's own descriptors: a field that leads to a tensor and that we don't follow would hide one."""
    from onnx import onnx_ml_pb2

    messages = onnx_ml_pb2.DESCRIPTOR.message_types_by_name
    ours = {name: name.removesuffix("Proto") for name in messages}
    ours |= {"TrainingInfoProto": "Training", "SparseTensorProto": "Sparse"}
    reaching = {"TensorProto"}
    for _ in messages:
        for message in messages.values():
            if any(field.message_type and field.message_type.name in reaching for field in message.fields):
                reaching.add(message.name)
    for name in reaching - {"TensorProto"}:
        fields = [field for field in messages[name].fields if field.message_type]
        leading = {one.number: ours[one.message_type.name] for one in fields if one.message_type.name in reaching}
        assert onnx_files._FIELDS[ours[name]] == leading, name


def test_external_data_deep_in_a_graph_is_found(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [4], [0.0] * 4)
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    inner = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "inner", [], [])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([branch], "outer", [], []))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="is no name of a file inside"):
        onnx_files.external(tmp_path, "a.onnx")


@pytest.mark.parametrize(
    "content", [b"location", b"\x3a\xff\xff\xff\xff\x7flocation", b"\x3b\x00location", b"\x80" * 30 + b"location"]
)
def test_what_is_no_protobuf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UserError, match="no whole ONNX file"):
        onnx_files.external(tmp_path, "a.onnx")


@given(st.binary(max_size=60), st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_bytes_break_the_reader(before: bytes, after: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.onnx").write_bytes(before + b"location" + after)
        with contextlib.suppress(UserError):
            onnx_files.external(Path(folder), "a.onnx")

"""openvino-genai itself loads the finished folder, unmodified, and answers with PyTorch's greedy tokens."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from masters_edge.bundle import manifest as manifests
from masters_edge.common.quiet import import_openvino
from masters_edge.export import export_student, graphs
from masters_edge.export.quantize import quantize
from masters_edge.export.student import LoadedStudent, load
from masters_edge.quantization import by_part
from masters_edge.runtime.backends.openvino import EXACT
from tests import tiny
from tests.export import bundles

QUESTION = "what is in this image?"
NEW = 24
# Pictures of InternVL fill whole tiles: openvino-genai resizes others without antialiasing.
SIZES = {
    "qwen2_5_vl": [(64, 48), (70, 51)],
    "qwen3_vl": [(64, 48), (70, 51)],
    "internvl3": [(32, 32), (64, 96)],
}


@functools.lru_cache
def exported(family: str) -> tuple[LoadedStudent, Path]:
    """An int4 student as exported, and its bundle.

    Its chat template takes messages that are plain text too, as those of the real checkpoints do.
    """
    folder = Path(shutil.copytree(bundles.student(family), bundles.root() / f"{family}-strings", dirs_exist_ok=True))
    path = folder / "chat_template.jinja"
    before, loop, after = path.read_text().partition("{% for part in message['content'] %}")
    body, end, after = after.partition("{% endfor %}")
    plain = "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    path.write_text(before + plain + loop + body + end + "{% endif %}" + after)
    out = bundles.root() / f"{family}-openvino-genai"
    export_student(folder, target="openvino", scheme="int4", out=out, samples=bundles.samples())
    student = load(folder)
    quantize(student, by_part.plan("int4"))
    return student, out


def generated(pipeline, picture) -> list[int]:
    genai = import_openvino("openvino_genai")
    ids: list[int] = []

    class Keep(genai.StreamerBase):  # type: ignore[name-defined, misc]
        def write(self, token) -> "genai.StreamingStatus":  # type: ignore[name-defined]
            ids.extend(token if isinstance(token, list) else [token])
            return genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    image = import_openvino().Tensor(np.asarray(picture)[None])
    pipeline.generate(QUESTION, images=[image], max_new_tokens=NEW, do_sample=False, streamer=Keep())
    return ids


@pytest.mark.wide
@pytest.mark.parametrize("family", SIZES)
def test_answers_equal_pytorch(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino_genai")
    genai = import_openvino("openvino_genai")
    monkeypatch.setenv("VISION_PREPROCESS", "CPP")  # its other way resizes without antialiasing
    student, folder = exported(family)
    reference = graphs.family(student.model_type).Reference
    for backend in ("PA", "SDPA"):  # with paged attention, its default, and without
        pipeline = genai.VLMPipeline(str(folder), "CPU", ATTENTION_BACKEND=backend, **EXACT)
        for seed, size in enumerate(SIZES[family]):
            picture = tiny.picture(*size, seed=seed)
            assert generated(pipeline, picture) == reference(student, picture, QUESTION, NEW).answer, (backend, size)


@pytest.mark.wide
@pytest.mark.parametrize("family", SIZES)
def test_our_own_runtime_runs_the_same_files(family: str) -> None:
    """The gate already compared them with PyTorch, part by part."""
    exact = manifests.check(exported(family)[1]).parity.exact
    assert exact.parts["vision_encoder"].max_relative_error < 1e-5
    assert exact.parts["embed_tokens"].max_relative_error == 0
    assert exact.parts["decoder"].max_relative_error < 1e-5
    assert exact.equal_answers == 1


@pytest.mark.wide
def test_graphs_and_ports_of_qwen() -> None:
    core = import_openvino().Core()

    def ends(family: str, name: str) -> dict[str, str]:
        model = core.read_model(exported(family)[1] / f"openvino_{name}_model.xml")
        return {end.get_any_name(): str(end.get_partial_shape()) for end in model.inputs}

    merger = {"hidden_states": "[?,32]", "attention_mask": "[1,?,?]", "rotary_pos_emb": "[?,8]"}
    assert ends("qwen3_vl", "vision_embeddings_merger") == merger
    windows = {"window_attention_mask": "[1,?,?]", "window_index": "[?]"}
    assert ends("qwen2_5_vl", "vision_embeddings_merger") == merger | windows
    assert ends("qwen3_vl", "vision_embeddings_pos") == {"input": "[?,?]"}
    decoder = {"inputs_embeds": "[?,?,64]", "attention_mask": "[?,?]", "position_ids": "[3,?,?]", "beam_idx": "[?]"}
    assert ends("qwen2_5_vl", "language") == decoder
    deepstack = {"visual_pos_masks": "[?,?]", "deepstack_visual_embeds": "[2,?,64]"}
    assert ends("qwen3_vl", "language") == decoder | deepstack


@pytest.mark.wide
def test_settings_of_internvl() -> None:
    folder = exported("internvl3")[1]

    def read(name: str) -> dict:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    assert read("config.json")["model_type"] == "internvl_chat"
    for image in (read("preprocessor_config.json"), read("processor_config.json")["image_processor"]):
        assert image["size"] == {"height": 32, "width": 32, "shortest_edge": 32}
        assert image["crop_size"] == {"height": 32, "width": 32}

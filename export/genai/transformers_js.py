"""What transformers.js reads beside the graphs, on top of the settings that every bundle has (`export/settings.py`).

In: a folder with those settings. Out: the same folder, which transformers.js loads as it is. It knows no InternVL; its
LLaVA is the same thing with one tile, so such a bundle's settings call themselves LLaVA, and `masters_edge_model_type`
in `config.json`, which our runtime looks at first, says what the student is.
"""

import json
from pathlib import Path
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.export.settings import write_json
from masters_edge.export.student import LoadedStudent


def write(student: LoadedStudent, folder: Path, dtype: str, external: list[str]) -> None:
    """Adapt the settings in `folder`.

    `dtype` is transformers.js' name for the precision, which also says what the graphs' names end with; `external`
    names the graphs whose weights lie in a file beside them. Raises UserError where LLaVA can't stand for a student.
    """
    about: dict[str, Any] = {"dtype": dtype}
    if external:
        about["use_external_data_format"] = {stem: 1 for stem in external}
    _update(folder / "config.json", {"transformers.js_config": about})
    # As in our runtime, an answer holds no picture.
    _update(folder / "generation_config.json", {"suppress_tokens": [student.model.config.image_token_id]})
    if student.model_type == "internvl":
        _as_llava(student, folder)


def _as_llava(student: LoadedStudent, folder: Path) -> None:
    """Settings under which its LLaVA classes do what InternVL's do with a picture of one tile."""
    config, processor = student.model.config, student.processor
    _update(
        folder / "config.json",
        {
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
            "image_token_index": config.image_token_id,
        },
    )
    about = {"processor_class": "LlavaProcessor"}
    # Its CLIPImageProcessor does what the settings say; for a name it doesn't know it does the same, with a warning.
    _update(folder / "preprocessor_config.json", about | {"image_processor_type": "CLIPImageProcessor"})
    # It counts (height / patch_size) * (width / patch_size) features.
    patch = config.vision_config.patch_size[0] / config.downsample_ratio
    counting = {"image_token": processor.image_token, "patch_size": round(patch), "num_additional_image_tokens": 0}
    _update(folder / "processor_config.json", about | counting)
    # Its LlavaProcessor repeats the placeholder and adds nothing around it. Our runtime reads chat_template.jinja.
    template, token = processor.chat_template, processor.image_token
    if token not in template:
        raise UserError(
            f"the chat template of the student in {student.folder} doesn't write {token} where a picture stands; "
            "save its processor with a template that does"
        )
    around = f"{processor.start_image_token}{token}{processor.end_image_token}"
    _update(folder / "tokenizer_config.json", {"chat_template": template.replace(token, around)})


def _update(path: Path, content: dict[str, Any]) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | content)

"""The files around the graphs: tokenizer, processor, chat template, generation settings.

As transformers saves them, plus what other runtimes and ours read and transformers 5 no longer writes: a flat
`preprocessor_config.json` and the chat template inside `tokenizer_config.json`.
"""

import json
from pathlib import Path
from typing import Any

from masters_edge.export.student import LoadedStudent
from masters_edge.runtime.families import OWN_MODEL_TYPE


def write_settings(student: LoadedStudent, folder: Path) -> None:
    """Write them into `folder`."""
    processor = student.processor
    processor.save_pretrained(folder)
    name = type(processor).__name__
    image = processor.image_processor.to_dict()
    write_json(folder / "preprocessor_config.json", {**_plain(image), "processor_class": name})

    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**tokenizer, "chat_template": processor.chat_template})
    (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")

    path = folder / "processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    length = getattr(processor, "image_seq_len", None)  # Idefics3 and SmolVLM; transformers.js asks for it
    about = {"processor_class": name} | ({} if length is None else {"image_seq_len": length})
    write_json(path, settings | about)

    # Every value, also those that equal transformers' defaults: other readers have other defaults.
    config = json.loads(student.model.config.to_json_string(use_diff=False))
    # A runtime may know the student by another family's name; ours looks at this key first.
    write_json(folder / "config.json", {**_without_paths(config), OWN_MODEL_TYPE: student.model_type})
    write_json(folder / "generation_config.json", _generation(student))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """UTF-8, two spaces, one line break at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _generation(student: LoadedStudent) -> dict[str, Any]:
    """Greedy, as the student is measured; every end token; the longest answer where the checkpoint says one.

    What else a checkpoint says of sampling (penalties, temperature, beams) would change answers in other runtimes.
    """
    from transformers import GenerationConfig

    own, ends = student.model.generation_config, student.end_ids
    kept = {name: getattr(own, name) for name in ("bos_token_id", "pad_token_id", "max_new_tokens")}
    settings = GenerationConfig(do_sample=False, eos_token_id=ends[0] if len(ends) == 1 else ends or None, **kept)
    return settings.to_diff_dict()


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A config, at every level without the folder it was loaded from."""
    kept = {name: value for name, value in config.items() if name != "_name_or_path"}
    return {name: _without_paths(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the numpy and enum types that JSON doesn't know."""
    return json.loads(json.dumps(settings, default=lambda value: getattr(value, "value", str(value))))

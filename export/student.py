"""A student as transformers saves it, loaded for export: model in float32, processor, settings."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.common.quiet import hush, hush_transformers
from masters_edge.families import checks


@dataclass
class LoadedStudent:
    """`model` is in eval mode and float32; `config` is the content of `config.json`."""

    folder: Path
    model: Any
    processor: Any
    config: dict[str, Any]

    @property
    def model_type(self) -> str:
        return self.config["model_type"]

    @property
    def end_ids(self) -> list[int]:
        """All ids that end an answer, in every runtime."""
        from masters_edge.families import generation

        return generation.end_ids(self.model.generation_config, self.processor.tokenizer)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint folder; raises UserError where there is none."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"there is no student folder {folder}; train one with `masters-edge distill RECIPE`")
    checks.regular_files(folder)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no config.json; give the folder of a checkpoint saved by transformers") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); save the student again") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{path} names no model_type; give the folder of a checkpoint saved by transformers")
    return config


def load(folder: Path) -> LoadedStudent:
    """Load model and processor; raises UserError where weights, tokenizer or a usable chat template are missing.

    Of several chat templates the one that prompts are written with stays.
    """
    config = read_config(folder)
    checks.refuse_programs(str(folder), local_files_only=True)
    hush()
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

    from masters_edge.families import rotary, templates, video_slot

    hush()  # torch's import gives its loggers levels of its own
    hush_transformers()
    video_slot.fill()
    try:
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # With torchvision installed transformers would resize otherwise than the runtime does on the device.
        processor.image_processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
        templates.settle(processor, str(folder))
        processor.chat_template = processor.tokenizer.chat_template = templates.text_of(processor)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        model, found = loaded
    except UserError:
        raise
    except Exception as error:  # a stranger's files make transformers raise whatever Python has
        raise UserError(
            f"the student in {folder} can't be loaded ({checks.said(error)}); save model and processor again"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(
            f"the student in {folder} lacks weights its config.json asks for ({missing[0]}); "
            "take config.json and weights from one checkpoint"
        )
    if rotary.kind(model.config.get_text_config()) == "longrope":
        raise UserError(
            f"the student in {folder} has rotary positions (longrope) whose frequencies change with the length of the "
            "prompt, which an exported graph's can't; nothing was written"
        )
    rotary.plain(model)
    return LoadedStudent(folder, model.eval().requires_grad_(False), processor, config)

"""Load and compare checkpoints: hub ids or local folders, as a user has them."""

import functools
import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from masters_edge.common.errors import UserError
from masters_edge.common.quiet import hush, hush_transformers
from masters_edge.families import checks, templates


def load_model(source: str, *, dtype: Any = None) -> Any:
    """The transformers image-text-to-text model at `source`, in evaluation mode.

    Raises:
        UserError: `source` can't be found, reached or read.
    """
    hush()
    from transformers import AutoModelForImageTextToText

    hush_transformers()
    options = {} if dtype is None else {"dtype": dtype}
    return load_pretrained(AutoModelForImageTextToText, source, **options).eval()


def bare_model(source: str) -> Any:
    """The checkpoint's model on the meta device: names and shapes of its parameters, no weights.

    Raises:
        UserError: its config can't be had.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(load_config(source))


def load_processor(source: str) -> Any:
    """The checkpoint's processor, its chat template tried; works without torchvision (videos are then refused).

    Pictures take the same way with torchvision and without, Pillow's, which the runtimes on devices compute:
    torchvision's resizing gives other pixels, by up to 0.3 of what they are normalised to.
    """
    hush()
    from transformers import AutoImageProcessor, AutoProcessor

    from masters_edge.families import video_slot

    hush_transformers()
    video_slot.fill()
    processor = load_pretrained(AutoProcessor, source)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise UserError(
            f"the checkpoint {source} has no image processor or no tokenizer, so it is no vision-language model; "
            "give a checkpoint with preprocessor_config.json and tokenizer.json"
        )
    if not type(processor.image_processor).__name__.endswith("Pil"):
        processor.image_processor = load_pretrained(AutoImageProcessor, source, backend="pil")
    templates.settle(processor, source)
    return processor


def load_config(source: str) -> Any:
    """The checkpoint's config; a hub id needs no more than a few kilobytes."""
    hush()
    from transformers import AutoConfig

    hush_transformers()
    return load_pretrained(AutoConfig, source)


NOT_FETCHED = "the hub can't be reached from this machine, and it was not fetched before"


@functools.cache
def hub_reachable() -> bool:
    """Whether the hub's name is known here; looking it up is quicker than huggingface_hub's five retries."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # the proxy looks names up
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def load_pretrained(auto_class: Any, source: str, **options: Any) -> Any:
    """`auto_class.from_pretrained(source, **options)`, its failures as a UserError; quick to fail without the hub."""
    if not Path(source).is_dir() and not hub_reachable():
        options["local_files_only"] = True  # what was fetched before is still there
    try:
        if "gguf_file" not in options:
            checks.refuse_programs(source, options.get("local_files_only", False))
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except UserError:
        raise
    except Exception as error:  # a stranger's files make transformers raise whatever Python has
        first = checks.said(error)
        if "local_files_only" in options:
            first = NOT_FETCHED
        kind = "folder" if Path(source).is_dir() else "hub id"
        raise UserError(
            f"the checkpoint {source} ({kind}) can't be loaded: {first} "
            "(give a folder saved by transformers, or a hub id that this machine can reach)"
        ) from error


def tokenizer_signature(processor: Any) -> dict[str, str]:
    """What must be equal between teacher and student: a digest each of vocabulary and special tokens, and template."""
    tokenizer = processor.tokenizer
    parts = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "end of sequence": tokenizer.eos_token,
        "chat template": templates.text_of(processor),
    }
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def require_same_tokenizer(student: str, student_processor: Any, teacher: str, teacher_processor: Any) -> None:
    """METHOD 4: the response's tokens must be the same ids for both.

    Raises:
        UserError: names both checkpoints and what differs.
    """
    ours, theirs = tokenizer_signature(student_processor), tokenizer_signature(teacher_processor)
    different = [name for name in ours if ours[name] != theirs[name]]
    if different:
        raise UserError(
            f"the tokenizers of student {student} and teacher {teacher} differ in: {', '.join(different)}; "
            "the method compares next-token distributions, so take both from one family"
        )


def fingerprint(source: str) -> str:
    """sha256 over a local checkpoint's weights, config and tokenizer; for a hub id its name and commit."""
    folder = Path(source)
    if not folder.is_dir():
        return f"hub:{source}@{getattr(load_config(source), '_commit_hash', None)}"
    checks.regular_files(folder)
    digest = hashlib.sha256()
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.jinja")])
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

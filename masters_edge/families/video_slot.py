"""Load multimodal processors on machines without torchvision.

SmolVLM, Qwen-VL, InternVL and LLaVA-OneVision processors have a slot for videos that needs torchvision, even when only
images are asked about. Where torchvision is missing, `fill()` puts a placeholder into that slot: images work, a video
raises a clear error, and the checkpoint's own video settings are kept word for word when the processor is saved.
"""

import json
from typing import Any

from transformers.utils import PushToHubMixin, cached_file, is_torchvision_available

_SETTINGS_FILES = ("processor_config.json", "video_preprocessor_config.json")


class VideoSlot(PushToHubMixin):
    """Stands where a video processor would: holds its settings, refuses videos."""

    model_input_names: list[str] = []
    _auto_class = None

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        sampling = settings.get("video_sampling", {})
        self.num_frames = settings.get("num_frames", sampling.get("max_frames", 64))
        self.fps = settings.get("fps", sampling.get("fps", 1))
        self.size = settings.get("size", {})
        self.merge_size = settings.get("merge_size", 2)
        self.temporal_patch_size = settings.get("temporal_patch_size", 2)

    @classmethod
    def from_pretrained(cls, name_or_path: str, **kwargs: Any) -> "VideoSlot":
        for name in _SETTINGS_FILES:
            path = cached_file(
                name_or_path,
                name,
                revision=kwargs.get("revision"),
                local_files_only=kwargs.get("local_files_only", False),
                _raise_exceptions_for_missing_entries=False,
            )
            if path is None:
                continue
            with open(path, encoding="utf-8") as file:
                settings = json.load(file)
            if name == "processor_config.json":
                settings = settings.get("video_processor") or {}
            if settings:
                return cls(**settings)
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return dict(self.settings)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError("a video was given, and reading videos needs torchvision: pip install torchvision")


def fill() -> None:
    """Let processors take the slot, and load with it where there is no torchvision; once is as good as often."""
    from transformers import processing_utils
    from transformers.models.auto import video_processing_auto

    mixin = processing_utils.ProcessorMixin
    check = mixin.check_argument_for_proper_class
    if getattr(check, "accepts_video_slot", False):
        return

    def check_argument_for_proper_class(self: Any, name: str, argument: Any) -> Any:
        if isinstance(argument, VideoSlot):
            return VideoSlot
        return check(self, name, argument)

    check_argument_for_proper_class.accepts_video_slot = True  # type: ignore[attr-defined]
    setattr(mixin, "check_argument_for_proper_class", check_argument_for_proper_class)  # noqa: B010
    if not is_torchvision_available():
        setattr(video_processing_auto.AutoVideoProcessor, "from_pretrained", VideoSlot.from_pretrained)  # noqa: B010

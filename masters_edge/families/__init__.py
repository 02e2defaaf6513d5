"""Model families: loading checkpoints, building prompts, and what each family needs of its own."""

from masters_edge.families.loading import (
    fingerprint,
    load_config,
    load_model,
    load_processor,
    require_same_tokenizer,
)

__all__ = ["fingerprint", "load_config", "load_model", "load_processor", "require_same_tokenizer"]

"""The probe of a decoder: who is refused follows from which tokens see which, not from names."""

from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.objective import probe

TOKENS = 40
MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
WINDOW, NEIGHBOUR = "doesn't see the whole prefix of 40 tokens", "lets a response see its neighbour"


class OfText:
    """A model's config with this decoder."""

    def __init__(self, model_type: str, **settings: Any) -> None:
        from transformers import AutoConfig

        sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
        sizes |= dict(num_key_value_heads=2, head_dim=16, vocab_size=300, max_position_embeddings=512)
        self.text = AutoConfig.for_model(model_type, **sizes | settings)

    def get_text_config(self) -> Any:
        return self.text

    def to_json_string(self) -> str:
        return self.text.to_json_string()


@pytest.mark.parametrize(
    ("model_type", "settings", "refused"),
    [
        ("llama", {}, None),
        ("qwen2", {}, None),
        ("qwen3", {}, None),
        ("qwen3_moe", MOE | dict(decoder_sparse_step=1, mlp_only_layers=[]), None),
        ("mistral", dict(sliding_window=None), None),
        ("mistral", dict(sliding_window=TOKENS), None),  # as wide as this run's longest row
        ("mistral", dict(sliding_window=TOKENS - 1), WINDOW),
        ("mistral", dict(sliding_window=4), WINDOW),
        ("phi3", dict(sliding_window=4), WINDOW),
        ("starcoder2", dict(sliding_window=4), WINDOW),
        ("mixtral", dict(sliding_window=4, num_local_experts=4), WINDOW),
        ("qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=1), WINDOW),
        ("gpt_oss", dict(num_local_experts=4, sliding_window=4), WINDOW),
        ("llama4_text", dict(attention_chunk_size=4, num_local_experts=2, no_rope_layers=[1, 1]), WINDOW),
        ("lfm2", dict(layer_types=["conv", "full_attention"]), NEIGHBOUR),
        ("qwen3_next", MOE | dict(layer_types=["linear_attention", "full_attention"]), NEIGHBOUR),
        ("mamba", dict(num_attention_heads=4), "can't be tried"),  # no decoder of attention at all
    ],
)
def test_who_can_be_read_in_grouped_rows(model_type: str, settings: dict, refused: str | None) -> None:
    config = OfText(model_type, **settings)
    if refused is None:
        probe.check(config, TOKENS, "teacher ./large")
        return
    with pytest.raises(UserError) as error:
        probe.check(config, TOKENS, "teacher ./large")
    said = str(error.value)
    assert said.startswith(f"teacher ./large: its decoder ({model_type}) ") and refused in said and "\n" not in said


def test_the_remedy_for_a_window_works() -> None:
    """The sentence says: shorter prompts and responses."""
    config = OfText("mistral", sliding_window=24)
    with pytest.raises(UserError, match=r"shorter prompts \(smaller images\) and responses.max_new_tokens"):
        probe.check(config, 25, "student")
    probe.check(config, 24, "student")

"""A judge in this process: tiny models of random weights, whose verdicts are garbage and must not count as 0."""

from pathlib import Path
from typing import Any

import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.recipe.schema import Judge, Reward
from masters_edge.rewards.accuracy import Scorer
from masters_edge.rewards.judge import local, resolved
from masters_edge.rewards.verdicts import Item
from tests import tiny

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def llama(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A Llama of about 0.1 M parameters, wide enough for its replies to differ from prompt to prompt."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny._tokenizer()
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("judge") / "llama")


def replies(model: Path | str, prompts: list[str], **options: Any) -> list[str | None]:
    judge = local.LocalJudge(Judge(model=str(model), max_new_tokens=12, **options))
    found = dict(pair for batch in judge.replies(prompts) for pair in batch)
    return [found[place].text for place in range(len(prompts))]


def test_replies_come_in_order_and_the_same_whatever_the_batch(model: Path) -> None:
    prompts = ["is it red?", "a much longer prompt about a green circle and a yellow triangle", "blue", "no"]
    alone = replies(model, prompts, batch_size=1)
    assert len(set(alone)) > 1, "the model answers by the prompt"
    assert replies(model, prompts, batch_size=3) == alone == replies(model, prompts, batch_size=3)


def test_replies_are_transformers_own_greedy_ones(model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, own = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    chat = [{"role": "user", "content": "is it red?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = own.generate(**ids, do_sample=False, max_new_tokens=12)
    expected = tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert replies(model, ["is it red?"]) == [expected]


def test_the_judges_own_settings_change_no_reply(model: Path, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 1.5, "num_beams": 2, "eos_token_id": 2}')
    for file in model.iterdir():
        if file.name != "generation_config.json":
            (tmp_path / file.name).symlink_to(file)
    assert replies(tmp_path, ["is it red?"]) == replies(model, ["is it red?"])


def test_garbage_is_unscored_and_counted_never_0(model: Path, tmp_path: Path) -> None:
    reward = Reward.model_validate({"metric": "judge", "judge": {"model": str(model), "max_new_tokens": 8}})
    items = [Item(str(n), "what color?", text, ("blue",), "judge") for n, text in enumerate(["blue", "red", ""])]
    with Scorer(reward, tmp_path) as scorer:
        verdicts = scorer.score(items)
        assert [verdict.score for verdict in verdicts] == [None, None, 0.0]
        assert scorer.unscored == 2 and verdicts[0].by == f"judge:{model}"


def test_a_model_that_scores(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model writes is read: with its decoder made to write a tag, the tag counts."""
    real = local.LocalJudge.replies

    def tagged(self: local.LocalJudge, prompts: list[str]) -> Any:
        for batch in real(self, prompts):
            yield [(place, type(reply)(f"{reply.text} <score>1</score>")) for place, reply in batch]

    monkeypatch.setattr(local.LocalJudge, "replies", tagged)
    reward = Reward.model_validate({"metric": "judge", "judge": {"model": str(model), "max_new_tokens": 4}})
    with Scorer(reward, tmp_path) as scorer:
        assert scorer.score([Item("1", "what color?", "blue", ("blue",), "judge")])[0].score == 1


def test_an_image_text_model_is_asked_without_images(tmp_path: Path) -> None:
    from transformers import SmolVLMForConditionalGeneration

    source = tiny.smolvlm(tmp_path / "smolvlm")
    judge = local.LocalJudge(Judge(model=str(source), max_new_tokens=4))
    assert isinstance(judge.model, SmolVLMForConditionalGeneration)
    (batch,) = judge.replies(["is it red?"])
    assert batch[0][1].text is not None


def test_models_that_cannot_judge(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no chat template.*instruction-tuned"):
        local.LocalJudge(Judge(model=str(llama(tmp_path / "base", template=None))))
    with pytest.raises(UserError, match="can't be loaded"):
        local.LocalJudge(Judge(model=str(tmp_path)))


def test_models_lie_beside_the_recipe(model: Path) -> None:
    recipe = model.parent / "recipe.yaml"
    assert resolved(Judge(model="llama"), recipe).model == str(model)
    assert resolved(Judge(model="org/name"), recipe).model == "org/name"
    assert resolved(Judge(model="llama", url="http://x/v1"), recipe).model == "llama"
    (model.parent / "small.gguf").touch()
    assert resolved(Judge(model="./small.gguf"), recipe).model == str(model.parent / "small.gguf")
    with pytest.raises(UserError, match="no checkpoint folder"):
        resolved(Judge(model="./nothing"), recipe)

"""What PyTorch says about one picture and one question, in float32, through transformers' own code.

The parity gate compares every exported part and every greedy answer with this. A family derives `Reference` and says
how its processor's output reaches the model and its graphs; all the rest is the same for all.
"""

from typing import Any

import numpy as np
import torch

from masters_edge.export.student import LoadedStudent
from masters_edge.families import generation, templates


class Reference:
    """All attributes are numpy arrays, a batch of one.

    `vision_inputs`: the vision part's inputs by name; `features` float32 [image tokens, width]; `input_ids` int64
    [1, T]; `token_embeds` float32 [1, T, width], `embeds` the same with the features in place; `answer` the greedy
    ids; `position_ids` int64 [1, T'] or [3, 1, T'] and `logits` float32 [1, T', vocab] of prompt and answer, where
    T' = T + len(answer) - 1. `width` is the hidden size, or more where a family carries more to its decoder.
    """

    def __init__(self, student: LoadedStudent, image: Any, question: str, max_new_tokens: int) -> None:
        model = student.model
        inputs = prompt(student.processor, image, question)
        ids = inputs["input_ids"]
        seen = self.see(inputs)
        with torch.no_grad():
            whole = generation.generate(
                model,
                {"input_ids": ids, "attention_mask": torch.ones_like(ids), **seen},
                ends=student.end_ids,
                pad=model.generation_config.pad_token_id,
                max_new_tokens=max_new_tokens,
                suppress_tokens=[model.config.image_token_id],  # as the runtime does: an answer holds no picture
            )
            features = self.look(model, seen)
            tokens = model.get_input_embeddings()(ids)
            wide = torch.nn.functional.pad(tokens, (0, features.shape[-1] - tokens.shape[-1]))
            places = (ids == model.config.image_token_id)[..., None]
            logits = model(input_ids=whole[:, :-1], attention_mask=torch.ones_like(whole[:, :-1]), **seen).logits
        self.vision_inputs = self.graph_inputs(student, seen)
        self.features = features.numpy()
        self.input_ids = ids.numpy()
        self.token_embeds = wide.numpy()
        self.embeds = wide.masked_scatter(places, features).numpy()
        self.answer = whole[0, ids.shape[1] :].tolist()
        first = self.positions(model, ids, seen)
        after = int(first.max()) + 1 + np.arange(len(self.answer) - 1)
        tail = np.broadcast_to(after, (*first.shape[:-1], len(after)))
        self.position_ids = np.concatenate([first, tail], axis=-1).astype(np.int64)
        self.logits = logits.numpy()

    @staticmethod
    def see(inputs: Any) -> dict[str, torch.Tensor]:
        """What of the processor's output the model takes for the picture."""
        raise NotImplementedError

    def look(self, model: Any, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        """Features float32 [image tokens, width], as the model puts them in place of the placeholders."""
        raise NotImplementedError

    def graph_inputs(self, student: LoadedStudent, seen: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """The vision part's inputs; those of the model, unless a family says otherwise."""
        return {name: tensor.numpy() for name, tensor in seen.items()}

    def positions(self, model: Any, ids: torch.Tensor, seen: dict[str, torch.Tensor]) -> np.ndarray:
        """position_ids of the prompt, int64 [1, T] or [3, 1, T]."""
        return np.arange(ids.shape[1], dtype=np.int64)[None]


def prompt(processor: Any, image: Any, question: str) -> Any:
    """The processor's tensors of one picture and question, as a batch of one."""
    text = processor.apply_chat_template(templates.chat(question), add_generation_prompt=True)
    bos = processor.tokenizer.bos_token
    special = not (bos is not None and text.startswith(bos))
    return processor(text=text, images=[image], return_tensors="pt", add_special_tokens=special)

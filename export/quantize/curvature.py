"""What a change of weights costs the answers, to second order, in the student's own eyes.

A text is a function that runs the student and returns logits [tokens, vocab]. Where the student's own distribution p
moves to q, KL(p || q) is, to second order in the change d of the weights, half of d's square under p's Fisher
information, and that is the mean of (d . s)^2, s the gradient of log-probability of tokens drawn from p itself. So one
backward pass a text says of all layers at once what their changes would cost: no labels, and no forward pass for each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

Text = Callable[[], torch.Tensor]


def costs(
    layers: Mapping[str, nn.Linear], changes: Mapping[str, torch.Tensor], texts: Sequence[Text], seed: int = 0
) -> dict[str, float]:
    """KL in nats a token that each layer's change alone would cost; `changes` [out, in] by the layers' names."""
    weights = {name: layer.weight for name, layer in layers.items() if name in changes}
    if not weights:
        return {}
    total, tokens = dict.fromkeys(weights, 0.0), 0
    for weight in weights.values():
        weight.requires_grad_()
    try:
        for score, count in _scores(texts, seed):
            gradients = torch.autograd.grad(score, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients):
                if gradient is not None:
                    total[name] += 0.5 * float((gradient * changes[name]).sum()) ** 2
            tokens += count
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return {name: value / max(1, tokens) for name, value in total.items()}


def _scores(texts: Sequence[Text], seed: int) -> Iterator[tuple[torch.Tensor, int]]:
    """For each text the log-probability, summed, of tokens drawn from the student's own predictions; their count."""
    draw = torch.Generator().manual_seed(seed)
    for text in texts:
        with torch.enable_grad():
            log_probs = text().float().log_softmax(-1)
            drawn = torch.multinomial(log_probs.detach().exp(), 1, generator=draw)
            yield log_probs.gather(-1, drawn).sum(), len(drawn)

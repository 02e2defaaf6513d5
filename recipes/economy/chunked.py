"""Peak memory and time of the whole objective in chunks, against the plain computation over all logits.

    python recipes/economy/chunked.py --vocabulary 151936 --tokens 4096

Each way runs in a process of its own (peak resident memory above what stood before the loss). Where the plain way
would not fit, it is measured at fewer tokens (`--plain-tokens`); its memory grows in proportion to them.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from masters_edge.common.display import say

HIDDEN = 256


def measure(way: str, tokens: int, vocabulary: int, threads: int, entries: int) -> dict[str, Any]:
    """Runs in the child: MiB, seconds, loss and the norm of the gradient."""
    import torch

    from masters_edge.objective import chunked
    from masters_edge.objective.terms import Objective, Tokens
    from masters_edge.recipe.schema import Phase, Reward

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    weight = (torch.randn(vocabulary, HIDDEN) * 0.1).requires_grad_()
    frozen = [(torch.randn(tokens, HIDDEN), torch.randn(vocabulary, HIDDEN) * 0.1) for _ in range(2)]

    def logits_of(which: int) -> Any:
        def logits(part: slice) -> torch.Tensor:
            with torch.no_grad():
                return frozen[which][0][part] @ frozen[which][1].T

        return logits

    known = Tokens(
        ids=torch.randint(0, vocabulary, (tokens,)),
        weights=torch.full((tokens,), 1 / tokens),
        advantages=torch.randn(tokens),
    )
    objective = Objective(Phase(), Reward(), known, logits_of(0), logits_of(1))
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    if way == "plain":
        loss, _ = objective(hidden @ weight.T, slice(0, tokens))
    else:
        loss, _ = chunked.loss(hidden, chunked.Head(weight), vocabulary, objective, entries)
    loss.backward()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert hidden.grad is not None and weight.grad is not None
    return {
        "mib": (peak - before) / 2**20,
        "seconds": seconds,
        "tokens": tokens,
        "loss": float(loss),
        "gradient_norm": [float(hidden.grad.norm()), float(weight.grad.norm())],
    }


def child(way: str, tokens: int, vocabulary: int, threads: int, entries: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", way, "--tokens", str(tokens), "--vocabulary", str(vocabulary)]
    command += ["--threads", str(threads), "--entries", str(entries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--plain-tokens", type=int, default=512)
    parser.add_argument("--entries", type=int, default=1 << 24, help="logits in a chunk; the default is training's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=["plain", "chunked"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.tokens, given.vocabulary, given.threads, given.entries)))
        return
    ways = (("plain", given.plain_tokens), ("chunked", given.plain_tokens), ("chunked", given.tokens))
    found = [child(way, tokens, given.vocabulary, given.threads, given.entries) for way, tokens in ways]
    plain, same, full = found
    at_full = plain["mib"] * given.tokens / given.plain_tokens
    figures = {
        "vocabulary": given.vocabulary,
        "threads": given.threads,
        "plain": plain,
        "chunked_same_tokens": same,
        "chunked": full,
        "plain_mib_at_full_tokens_in_proportion": at_full,
        "memory_share": full["mib"] / at_full,
        "time_ratio_same_tokens": plain["seconds"] / same["seconds"],
        "loss_difference": abs(plain["loss"] - same["loss"]),
        "gradient_difference": max(
            abs(a - b) / a for a, b in zip(plain["gradient_norm"], same["gradient_norm"], strict=True)
        ),
    }
    for name, row in zip(("plain", "chunked", "chunked"), found):
        say(
            f"{name:8} {row['tokens']:6,} tokens {row['mib']:9,.0f} MiB {row['seconds']:7.2f} s  loss {row['loss']:.6f}"
        )
    say(
        f"at {given.tokens:,} tokens: plain {at_full:,.0f} MiB in proportion, chunked {full['mib']:,.0f} MiB, "
        f"1/{1 / figures['memory_share']:.0f} of it; loss differs by {figures['loss_difference']:.1e}, "
        f"gradient norms by {figures['gradient_difference']:.1e}"
    )
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""One Markdown line a bundle: size, parity, accuracy; from the manifests and a results.json of `bench`.

masters-edge export --target onnx --target gguf --quant fp32 --quant int4 && masters-edge bench
python recipes/export/table.py runs/demo/bench/results.json
"""

import json
import sys
from pathlib import Path

from masters_edge.bundle import manifest as manifests

HEAD = [
    "| bundle | MB | parity: vision, decoder | answers equal to PyTorch's, exact / shipped | accuracy, % |",
    "|---|---|---|---|---|",
]


def line(measured: dict) -> str:
    """The row of one measured bundle."""
    manifest = manifests.read(Path(measured["path"]))
    exact = manifest.parity.exact
    if exact.logprob_error is None:
        errors = ", ".join(f"{exact.parts[part].max_relative_error:.0e}" for part in ("vision_encoder", "decoder"))
    else:
        errors = f"log-probabilities {exact.logprob_error:.0e} nat"
    equal = f"{100 * exact.equal_answers:.0f}% / {100 * manifest.parity.shipped.equal_answers:.0f}%"
    accuracy = measured["accuracy"]["per_cent"]
    size = measured["size_bytes"] / 1e6
    return f"| {measured['name']} | {size:.2f} | {errors} | {equal} | {accuracy:.2f} |"


def main(results: Path) -> None:
    measured = json.loads(results.read_text(encoding="utf-8"))["measurements"]
    rows = [line(one) for one in measured if one["kind"] == "bundle"]
    print("\n".join([*HEAD, *rows]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What an export costs at SmolVLM-256M's shape: seconds, peak memory, sizes, parity. One fresh process per export.

    python recipes/export/cost.py --out runs/export/cost.json --targets onnx openvino gguf executorch coreml

Peak memory is that of the exporting process, as the operating system counts it, beside the float32 student's size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # `recipes/` is no package: its files find each other as scripts do
    sys.path.insert(0, str(Path(__file__).parent))


def one(student: Path, target: str, scheme: str, out: Path) -> dict[str, Any]:
    """Export in this process; the figures."""
    import numpy as np
    from PIL import Image

    from masters_edge.benchmarks.machine import peak_rss_mib
    from masters_edge.bundle import manifest as manifests
    from masters_edge.export import export_student

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8))
    stages: dict[str, dict[str, float]] = {}
    started = last = time.perf_counter()
    current = "loading the student"

    def heard(stage: str, share: float) -> None:
        """Time and memory so far go to the stage that was running."""
        nonlocal last, current
        now = time.perf_counter()
        stages.setdefault(current, {"seconds": 0.0})
        stages[current]["seconds"] = round(stages[current]["seconds"] + now - last, 1)
        stages[current]["peak_rss_mib"] = round(peak_rss_mib())
        last, current = now, stage

    manifest = export_student(
        student, target=target, scheme=scheme, out=out, samples=[(picture, "what is in this image?")], on_progress=heard
    )
    seconds = time.perf_counter() - started
    files = {file.path: file.bytes for file in manifests.read(out).files}
    decoder = sum(size for path, size in files.items() if Path(manifest.graphs.get("decoder", "")).stem in path)
    return {
        "target": target,
        "scheme": scheme,
        "seconds": round(seconds, 1),
        "peak_rss_mib": round(peak_rss_mib()),
        "student_mib": round(sum(f.stat().st_size for f in student.glob("*.safetensors")) / 2**20),
        "bundle_mb": round(sum(files.values()) / 1e6, 1),
        "decoder_mb": round(decoder / 1e6, 1),
        "parity": {part: figure.max_relative_error for part, figure in manifest.parity.exact.parts.items()},
        "equal_answers": manifest.parity.exact.equal_answers,
        "shipped_equal_answers": manifest.parity.shipped.equal_answers,
        "stages": stages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["onnx", "openvino", "gguf"])
    parser.add_argument("--schemes", nargs="+", default=["int4"])
    parser.add_argument("--student", type=Path, help="reuse this folder (made if it isn't there)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--one", nargs=3, metavar=("TARGET", "SCHEME", "BUNDLE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        target, scheme, out = args.one
        print(json.dumps(one(args.student, target, scheme, Path(out))))
        return
    from shape import build

    found = []
    with tempfile.TemporaryDirectory(prefix="masters-edge-cost-") as scratch:
        student = args.student or Path(scratch) / "student"
        if not (student / "config.json").exists():
            build(student)
        for target in args.targets:
            for scheme in args.schemes:
                command = [sys.executable, __file__, "--student", str(student), "--one", target, scheme]
                run = subprocess.run([*command, f"{scratch}/bundle"], stdout=subprocess.PIPE, text=True)
                if run.returncode:
                    sys.exit(f"the export to {target} ({scheme}) failed")
                found.append(json.loads(run.stdout.splitlines()[-1]))
                print(json.dumps(found[-1], indent=1), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

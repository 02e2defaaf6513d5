"""One export in a process of its own, so that its memory is gone before anything is measured.

In: checkpoint, target, scheme, where the bundle goes. Where the system ends the process for want of memory, that is
said in a sentence. `python -m masters_edge.preview.exporting CHECKPOINT TARGET SCHEME OUT` writes its progress to
standard output, a JSON object a line.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masters_edge.common import child
from masters_edge.common.errors import UserError

Heard = Callable[[str, float], None]


def export(checkpoint: Path, target: str, scheme: str, out: Path, heard: Heard) -> None:
    """Write the bundle; `heard` is told what is being done and the share (0 to 1) of the whole. Raises UserError."""
    command = [sys.executable, "-m", __name__, str(checkpoint), target, scheme, str(out)]
    what = f"exporting {checkpoint} to {target} as {scheme}"
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            try:
                done = _follow(process.stdout, heard)
                status = process.wait()
            except BaseException:
                process.kill()
                raise
        if status == 0 and done:
            return
        if status == -signal.SIGKILL:
            raise UserError(
                f"{what} was ended by the system, most likely for want of memory; close other programs, or use a "
                "machine with more memory: the same command goes on where it stopped"
            )
        said.seek(0)
        raise UserError(f"{what} failed: {child.last_words(status, said.read().decode('utf-8', 'replace'))}")


def _follow(lines: Any, heard: Heard) -> bool:
    """Pass on what the process says; whether it said that it was done."""
    done = False
    for event in child.objects(lines):
        if "error" in event:
            raise UserError(event["error"])
        heard(event["stage"], event["share"])
        done = done or event["share"] == 1.0
    return done


def _sample(checkpoint: str) -> Any:
    """The picture to prove the bundle on: the one of two shapes that becomes fewer tiles."""
    from masters_edge import families
    from masters_edge.benchmarks.cases import picture

    processor = families.load_processor(checkpoint).image_processor
    pictures = [picture(*size) for size in ((256, 256), (512, 64))]
    return min(pictures, key=lambda one: processor(images=[one], return_tensors="np")["pixel_values"].size)


def _main(checkpoint: str, target: str, scheme: str, out: str) -> None:
    from masters_edge.export import export_student

    def say(stage: str, share: float) -> None:
        print(json.dumps({"stage": stage, "share": share}), flush=True)

    try:
        export_student(
            Path(checkpoint),
            target=target,
            scheme=scheme,
            out=Path(out),
            samples=[(_sample(checkpoint), "what is in this image?")],
            on_progress=say,
        )
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""Whether a bundle need not be made again."""

from pathlib import Path

from masters_edge.bundle import manifest as manifests
from masters_edge.common import versions
from masters_edge.common.errors import UserError
from masters_edge.quantization.by_part import QuantizationPlan


def up_to_date(place: Path, student: Path, target: str, plan: QuantizationPlan, method: str) -> bool:
    """Whether the bundle is whole, of this student, so quantized, and made by the libraries that are installed now."""
    if not place.exists() or not student.exists():
        return False
    try:
        manifest = manifests.check(place)
    except UserError:
        return False
    quantized = manifest.quantization
    same = (
        (manifest.target, manifest.scheme, quantized.method) == (target, plan.name, method)
        and quantized.schemes == {part: scheme.name for part, scheme in plan.parts.items()}
        and manifest.student.fingerprint == manifests.fingerprint(student)
    )
    return same and dict(manifest.versions) == versions.installed(*manifest.versions)

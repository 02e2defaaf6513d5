"""Questions about images, from users' data or a built-in set: read, check, choose, fingerprint.

In: a folder, a file (JSON lines, JSON, Parquet, CSV), a `datasets` data set, `easy-vqa`. Out: a list of `Question`.
"""

from masters_edge.data.fingerprint import fingerprint
from masters_edge.data.images import verify_images
from masters_edge.data.left_out import LeftOut
from masters_edge.data.readers import read, read_source
from masters_edge.data.records import EmbeddedImage, Question, open_image
from masters_edge.data.split import hold_out, keep_labels, sample

__all__ = [
    "EmbeddedImage",
    "LeftOut",
    "Question",
    "fingerprint",
    "hold_out",
    "keep_labels",
    "open_image",
    "read",
    "read_source",
    "sample",
    "verify_images",
]

"""Answer questions about pictures from a bundle, with numpy, Pillow, tokenizers and one runtime; never torch."""

from masters_edge.runtime.student import Answer, Picture, Student

__all__ = ["Answer", "Picture", "Student"]

"""What a GGUF export is made of, for llama.cpp and everything built on it.

`blocks.py` (integers as Q4_0 and Q8_0 blocks and back), `files.py` (one file: metadata and tensors, with a note of the
parameter each came from), `text.py`, `vision.py` and `tokenizer.py` (a student in llama.cpp's names and metadata).
"""

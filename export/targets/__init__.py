"""Formats a student can be lowered to: one file each, found by its name; a new one touches no other file.

A target's module has `BACKEND` (the runtime backend that proves it here), `VERSIONS` (libraries to note in the
manifest), `write(parts, tensors, student, scheme, folder, on_part) -> dict` (lower every part at exact arithmetic,
write graphs and settings, return the graph file of each part) and `ship(folder, graphs) -> bool` (switch to the
settings the bundle ships with; False where those are the exact ones).
"""

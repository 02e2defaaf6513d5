"""What an architecture would cost on a device, before anything is trained.

From a config alone: random weights (`weights.py`) and a tokenizer and image processor that stand in where the config
has none (`processors.py`) become a checkpoint, which is exported and measured like any student (`command.py`). In: a
name, hub id, folder or config.json. Out: bundles and a results.json without accuracy.
"""

"""What a saved Core ML package computes, worked out on any machine: Core ML itself runs on Apple's systems only.

`program.py` re-reads a package from disk and runs its functions operator by operator in torch (`operators.py`);
`backend.py` makes a runtime backend of three packages, for the parity gate. It proves graph and weights, not Apple's
compiler, nor the float16 arithmetic of its processors.
"""

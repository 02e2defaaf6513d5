"""What `pip install masters-edge[extra]` brings, by extra."""

# extra -> (what it is for, modules it brings)
EXTRAS = {
    "distill": (
        "train a student",
        ("torch", "transformers", "accelerate", "datasets", "pint", "pyarrow", "safetensors"),
    ),
    "onnx": ("export to ONNX, quantize", ("onnx", "onnxscript", "torchao")),
    "openvino": ("export to OpenVINO, and run there", ("openvino", "openvino_tokenizers")),
    "coreml": ("export to Core ML", ("coremltools",)),
    "executorch": ("export to ExecuTorch, and run there", ("executorch",)),
    "gguf": ("export to GGUF, and run on llama.cpp", ("gguf", "xllamacpp")),
    "optimum": ("`optimum-cli export edge`", ("optimum",)),
    "bench": ("measure and draw", ("easy_vqa", "matplotlib", "pint")),
    "serve": ("`masters-edge serve`", ("starlette", "uvicorn")),
    "browser": ("measure in browsers, a phone's too", ("starlette", "uvicorn", "cryptography", "segno", "easy_vqa")),
    "endpoint": ("responses and judges from a server", ("openai",)),
}


def extra_with(module: str) -> str | None:
    """The extra that brings a module that can't be imported; None where none does."""
    top = module.partition(".")[0]
    return next((extra for extra, (_, modules) in EXTRAS.items() if top in modules), None)

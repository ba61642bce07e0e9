"""Packaging of lightbsr: ``data/`` is installed as ``lightbsr_data``, ``options/`` as ``lightbsr.options``."""

from pathlib import Path

from setuptools import setup

setup(
    name="lightbsr",
    version="0.1.0",
    description="LightBSR (ICCV 2025) and KDSR (ICLR 2023) for BasicSR: light blind image super-resolution",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"lightbsr_data": "data", "lightbsr.options": "options"},
    packages=[
        "lightbsr",
        "lightbsr.evaluation",
        "lightbsr.options",
        "lightbsr.training",
        "lightbsr.upscaling",
        "lightbsr_arch",
        "lightbsr_compat",
        "lightbsr_data",
        "lightbsr_models",
    ],
    py_modules=["lightbsr_cli"],
    package_data={
        "lightbsr": ["protocols/*.yml", "papers/*.yml", "weights/*.safetensors"],
        "lightbsr.evaluation": ["report.html"],
        "lightbsr.options": ["schema.json", "train/*.yml", "test/*.yml", "ablation/*.yml"],
    },
    install_requires=[
        # BasicSR 1.4.2 cannot be built on Python 3.13 and newer (BasicSR#749).
        "basicsr>=1.4.2; python_version < '3.13'",
        "torch>=2.4",
        "numpy",
        "opencv-python",
        "pillow",  # reads an image's size before it is decoded
        "safetensors",  # checkpoints that cannot hold code
        "scipy<2",  # BasicSR imports scipy.ndimage.filters, which SciPy 2 removes
        "scikit-learn",
        "lmdb",
        "pyyaml",
        "pydantic>=2.10",  # declarations of option files
        # The progress bar of `lightbsr upscale` (BasicSR brings it too, but not on Python 3.13).
        "tqdm",
    ],
    extras_require={
        "demo": ["scikit-image"],  # its sample photographs
        "onnx": ["torch>=2.9", "onnx", "onnxruntime", "onnxscript"],  # lightbsr export, --engine onnx
        "openvino": ["lightbsr[onnx]", "openvino"],  # --engine openvino
        # What the tests of docs/integration.md run.
        "integration": ["lightbsr[onnx,openvino]", "spandrel", "realesrgan", "ncnn", "pnnx"],
        "dev": [
            "pytest",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            "types-tqdm",
            "scikit-image",
            "build",
            "jsonschema",
        ],
        "docs": ["mkdocs-material>=9.5,<10"],
    },
    entry_points={"console_scripts": ["lightbsr = lightbsr_cli:main"]},
)

# SPDX-License-Identifier: MIT
"""The package's metadata; the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (HERE / "fairseq_layerdrop/__init__.py").read_text(), re.M
)[1]

setup(
    name="fairseq-layerdrop",
    version=VERSION,
    description="Train one Transformer, ship it at any depth: LayerDrop for fairseq",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11, <3.14",
    packages=find_packages(include=["fairseq_layerdrop", "fairseq_layerdrop.*"]),
    package_data={"fairseq_layerdrop": ["py.typed"]},
    install_requires=[
        "fairseq-fixed==0.12.3.1",
        "torch>=2.13",
        "rich",
        "sacrebleu",
        "sentencepiece",
    ],
    extras_require={
        "report": ["matplotlib"],
        "search": ["optuna"],
        "rouge": ["rouge-score"],
        "export": ["ctranslate2", "safetensors"],
        "huggingface": [
            "protobuf",
            "sacremoses",
            "safetensors",
            "subword-nmt",
            "tokenizers",
            "transformers>=5",
        ],
        "dev": [
            "hypothesis",
            "mypy",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "ruff",
            "soundfile",
            "tensorboardX",
        ],
    },
    entry_points={"console_scripts": ["fairseq-layerdrop = fairseq_layerdrop.cli:main"]},
)

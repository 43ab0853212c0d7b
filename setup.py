"""Packaging of Hexareme: the root folders conf, data, parallel, core and launcher install as the package `hexareme`."""

from setuptools import find_packages, setup

NAME = "hexareme"
LAYERS = ("conf", "data", "parallel", "core", "launcher")

# Cleaning and the sources that need more than a file's bytes. lxml_html_clean: trafilatura wants it by an extra of lxml that pip misses.
CLEAN = ["datatrove[processing]>=0.10", "lxml_html_clean>=0.4", "py3langid>=0.3"]
SOURCES = ["datasets>=4", "mwparserfromhell>=0.6", "w3lib>=2.2", "warcio>=1.7"]

TESTS = [
    *CLEAN,
    *SOURCES,
    "hypothesis>=6",
    "megatron-core>=0.16",  # only its IndexedDataset, to prove that token files are interchangeable
    "moto[s3,server]>=5",  # a real S3 over HTTP on this machine
    "mypy>=1.15",
    "psutil>=6",
    "pytest>=8",
    "pytest-timeout>=2",
    "ruff>=0.11",
    "s3fs>=2025",
    "tensorboard>=2.18",
    "transformers>=5",
    "wandb>=0.19",
]

setup(
    name=NAME,
    version="0.1.0",
    description="Train large language models with every parallelism, on one laptop or a thousand GPUs",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={NAME: "."},
    packages=[f"{NAME}.{p}" for p in find_packages(include=[*LAYERS, *(f"{layer}.*" for layer in LAYERS)])],
    package_data={f"{NAME}.conf": ["**/*.yaml"]},
    install_requires=[
        "deepspeed>=0.19,<0.20",
        "fsspec>=2024",
        "hydra-core>=1.3.2",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "omegaconf>=2.3",
        "pyarrow>=16",
        "rich>=13",
        "safetensors>=0.5",
        "sentencepiece>=0.2.3",  # encodes with offsets
        "tiktoken>=0.9",
        "tokenizers>=0.21",
        "torch>=2.10",
        "xxhash>=3.4",
        "zstandard>=0.22",
    ],
    extras_require={
        "wandb": ["wandb>=0.19"],
        "tensorboard": ["tensorboard>=2.18"],
        "clean": CLEAN,
        "sources": SOURCES,
        "http": ["aiohttp>=3.9"],
        "s3": ["s3fs>=2025"],
        "gs": ["gcsfs>=2025"],
        "tests": TESTS,
    },
    entry_points={"console_scripts": [f"{NAME} = {NAME}.launcher.cli:main"]},
)

"""What a run ran on: Python, packages, processor, device, and the settings that can decide a bit."""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

# Packages whose versions can change a number; of others a difference is told, and counts for nothing.
COMPUTING = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "accelerate",
    "transformers",
    "safetensors",
    "scikit-learn",
    "pillow",
    "torchvision",
)
_THREADS = "OMP_NUM_THREADS"
# A list, and never the whole environment: that holds secrets.
_VARIABLES = (
    _THREADS,
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "PYTHONHASHSEED",
)
_INFO = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(?:-.*)?\.(?:dist|egg)-info")


def environment() -> dict[str, Any]:
    """Facts by name; ``packages`` maps names to versions, ``variables`` those that are set."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **_device(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "packages": packages(),
    }


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _device() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    driver = Path("/proc/driver/nvidia/version")
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver.read_text(encoding="utf-8").splitlines()[0] if driver.is_file() else "",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def packages() -> Mapping[str, str]:
    """Installed packages and their versions, those of an editable installation with that word.

    Read off the names of folders: asking ``importlib.metadata`` for each takes 20 times as long.
    """
    versions: dict[str, str] = {}
    for folder in map(Path, sys.path):
        for path in _infos(folder):
            if match := _INFO.fullmatch(path.name):
                # What stands earlier on the path is what would be imported.
                name = re.sub(r"[-_.]+", "-", match["name"]).lower()
                versions.setdefault(name, match["version"] + _editable(path))
    return dict(sorted(versions.items()))


def _infos(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.endswith((".dist-info", ".egg-info")):
                yield Path(entry.path)


def _editable(info: Path) -> str:
    url = info / "direct_url.json"
    if not url.is_file():
        return ""
    try:
        facts = json.loads(url.read_bytes())
    except ValueError:
        return ""
    return " (editable)" if facts.get("dir_info", {}).get("editable") else ""


def requirements(installed: Mapping[str, str]) -> str:
    """Lines ``name==version`` that install the same packages; what is editable here is part of the kept source."""
    return "".join(f"{name}=={version}\n" for name, version in installed.items() if " " not in version)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """What two environments differ in, as ``then -> now``: packages, and all other facts.

    The path of the system's release says nothing about a number and is left out.
    """
    apart = ("packages", "system")
    facts, facts_now = ({name: fact for name, fact in side.items() if name not in apart} for side in (then, now))
    if then["threads"] == now["threads"]:
        # However their number was asked for.
        for side in (facts, facts_now):
            side["variables"] = {name: value for name, value in side["variables"].items() if name != _THREADS}
    return arrows(then["packages"], now["packages"]), arrows(facts, facts_now)


def arrows(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Name -> ``then -> now`` of all that differs."""
    names = sorted(then.keys() | now.keys())
    return {name: f"{then.get(name)} -> {now.get(name)}" for name in names if then.get(name) != now.get(name)}

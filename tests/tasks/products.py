"""Runs a task in bf16 without a store and counts the products of matrices and convolutions by file and type.

    python -m tests.tasks.products TASK [KEY=VALUE ...]

Prints {"model.py": {"torch.bfloat16": 40}, ...} as JSON; the files are those of projects/.
"""

import json
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from labtrail.config import load_config
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.launch import make_accelerator
from labtrail.running.registry import task_named
from labtrail.running.run import Run

# Without gradients the composed operators arrive as a whole.
_PRODUCTS = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution"),
    *("linear", "matmul", "conv1d", "conv2d", "scaled_dot_product_attention"),
)


class _Products(TorchDispatchMode):
    """Counts the results of products by the file that asks for them and by their type."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _PRODUCTS:
            frames = [frame for frame in traceback.extract_stack() if "/projects/" in frame.filename]
            self.counts[Path(frames[-1].filename).name if frames else "?"][str(result.dtype)] += 1
        return result


def main() -> None:
    name, *values = sys.argv[1:]
    task = task_named(name)
    overrides = [(key, value) for key, _, value in (word.partition("=") for word in values)]
    config = task.resolve(load_config(task.config, task.default, [("compute.precision", "bf16"), *overrides]))
    accelerator = make_accelerator(config.compute, 1, 60)
    with tempfile.TemporaryDirectory() as folder:
        run = Run("0" * 32, accelerator, Checkpoint(Path(folder), accelerator, score=task.score))
        with _Products() as products:
            for record in task.records(config, run):
                run.record_taken()
                run.checkpoint.note_best(record)
                run.checkpoint.save(record)
        run.checkpoint.flush()
    print(json.dumps(products.counts))


if __name__ == "__main__":
    main()

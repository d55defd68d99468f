"""One training step on made-up rows."""

import torch

from labtrail.running.example import Example
from projects.tumour.config import TumourConfig
from projects.tumour.model import FEATURES, Mlp
from projects.tumour.train import noted_loss


def example(config: TumourConfig, batch_size: int) -> Example:
    """Rows of random numbers."""
    batch = {
        "rows": torch.randn(batch_size, FEATURES),
        "labels": torch.randint(0, 2, (batch_size,)),
        "noted": torch.zeros(2),
        "share": torch.tensor(1.0),
    }
    return Example(Mlp(config.model), batch, noted_loss)

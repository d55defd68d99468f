"""The fusions: each adds its parts to the network and turns the tokens of all modalities into logits.

Another fusion is a class here, its line in ``FUSIONS``, and its name in ``Fusion`` of ``config.py``. Parts are
attributes of the network itself, so that the names of weights stay what earlier checkpoints have.

Shape suffixes as in ``model.py``: B windows, M modalities, L tokens of a modality, D width, K classes.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.pamap2.config import HEADS, RANK, ModelConfig


class Output(NamedTuple):
    """What the network says.

    Attributes:
        logits: shape (B, K).
        shares: weight of each modality in the decision, shape (B, M), rows sum to 1; None where the fusion has none.
    """

    logits: Tensor
    shares: Tensor | None


class Network(nn.Module):
    """What a fusion finds in the network, and the parts that it may add.

    Attributes:
        config, classes: of the network.
        dropout: before every classifier.
        classify: for what the fusion returns the width of.
    """

    config: ModelConfig
    classes: int
    dropout: nn.Dropout
    classify: nn.Linear
    heads: nn.ModuleList
    kinds: nn.Parameter
    query: nn.Parameter
    norm: nn.LayerNorm
    key: nn.Linear
    value: nn.Linear
    gate: nn.Linear
    squeeze: nn.ModuleList
    factors: nn.Parameter
    mix: nn.Parameter


class FusionRule(Protocol):
    """How modalities become one decision."""

    def add_parts(self, model: Network, modalities: int) -> int:
        """Adds the parts that it trains; the width of what the classifier gets, 0 if it has classifiers of its own."""
        ...

    def fuse(self, model: Network, tokens: list[Tensor], seen_BM: Tensor) -> Output:
        """Logits.

        Args:
            model: the network, with the parts that were added.
            tokens: of each modality, (B, L, D).
            seen_BM: bool; modalities that take part.
        """
        ...


class Early:
    """Joined channels, one encoder: the tokens are those of all modalities together."""

    def add_parts(self, model: Network, modalities: int) -> int:
        """Nothing but the classifier."""
        del modalities
        return model.config.width

    def fuse(self, model: Network, tokens: list[Tensor], seen_BM: Tensor) -> Output:
        """The mean token, classified."""
        del seen_BM
        return Output(model.classify(model.dropout(tokens[0].mean(1))), None)


class Late:
    """A classifier for each modality; the mean of their logits."""

    def add_parts(self, model: Network, modalities: int) -> int:
        """The classifiers."""
        model.heads = nn.ModuleList(nn.Linear(model.config.width, model.classes) for _ in range(modalities))
        return 0

    def fuse(self, model: Network, tokens: list[Tensor], seen_BM: Tensor) -> Output:
        """The mean over those that take part."""
        pairs = zip(model.heads, tokens, strict=True)
        logits_BMK = torch.stack([head(model.dropout(x_BLD.mean(1))) for head, x_BLD in pairs], dim=1)
        shares_BM = seen_BM / seen_BM.sum(1, keepdim=True)
        return Output(_weighted(shares_BM, logits_BMK), shares_BM)


class Hybrid:
    """One learnt query looks at every token of every modality that is there."""

    def add_parts(self, model: Network, modalities: int) -> int:
        """An embedding of each modality, the query, and the projections."""
        width = model.config.width
        model.kinds = nn.Parameter(torch.randn(modalities, width) * 0.02)
        model.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        model.norm = nn.LayerNorm(width)
        model.key, model.value = nn.Linear(width, width), nn.Linear(width, width)
        return width

    def fuse(self, model: Network, tokens: list[Tensor], seen_BM: Tensor) -> Output:
        """Attention over all tokens; a modality's share is the weight of its tokens, a mean over heads."""
        lengths = [x_BLD.shape[1] for x_BLD in tokens]
        marked = [x_BLD + kind for x_BLD, kind in zip(tokens, model.kinds, strict=True)]
        x_BLD = model.norm(torch.cat(marked, dim=1))
        seen_BL = torch.cat([seen_BM[:, i : i + 1].expand(-1, n) for i, n in enumerate(lengths)], dim=1)
        heads = model.config.heads or HEADS
        q, k, v = model.query.expand(len(x_BLD), -1, -1), model.key(x_BLD), model.value(x_BLD)
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = scores.masked_fill(~seen_BL[:, None, None], float("-inf")).softmax(-1)
        # A weight of 0 must win against any value, also one that is not finite.
        v = torch.where(seen_BL[:, None, :, None], v, 0.0)
        pooled = (weights @ v).transpose(1, 2).flatten(1)
        shares = torch.stack([part.sum(-1) for part in weights.mean(1)[:, 0].split(lengths, dim=1)], dim=1)
        return Output(model.classify(model.dropout(pooled)), shares)


class Gated:
    """A scalar gate for each modality, a softmax over those that take part."""

    def add_parts(self, model: Network, modalities: int) -> int:
        """The gate."""
        del modalities
        model.gate = nn.Linear(model.config.width, 1)
        return model.config.width

    def fuse(self, model: Network, tokens: list[Tensor], seen_BM: Tensor) -> Output:
        """The gated mean of the modalities' mean tokens, classified."""
        pooled_BMD = torch.stack([x_BLD.mean(1) for x_BLD in tokens], dim=1)
        scores_BM = model.gate(pooled_BMD)[..., 0].masked_fill(~seen_BM, float("-inf"))
        shares_BM = scores_BM.softmax(1)
        return Output(model.classify(model.dropout(_weighted(shares_BM, pooled_BMD))), shares_BM)


class TensorProduct:
    """Outer product of all modalities with a constant (Zadeh et al. 2017), of width 5 each."""

    def add_parts(self, model: Network, modalities: int) -> int:
        """A projection to 4 for each modality."""
        model.squeeze = nn.ModuleList(nn.Linear(model.config.width, 4) for _ in range(modalities))
        return 5**modalities

    def fuse(self, model: Network, tokens: list[Tensor], seen_BM: Tensor) -> Output:
        """The product, classified."""
        del seen_BM
        joint = tokens[0].new_ones(len(tokens[0]), 1)
        for squeeze, x_BLD in zip(model.squeeze, tokens, strict=True):
            factor = F.pad(squeeze(x_BLD.mean(1)), (0, 1), value=1.0)
            joint = (joint[:, :, None] * factor[:, None]).flatten(1)
        return Output(model.classify(model.dropout(joint)), None)


class LowRank:
    """The same product through factors of low rank (Liu et al. 2018)."""

    def add_parts(self, model: Network, modalities: int) -> int:
        """The factors of each modality, and how they are mixed."""
        rank, width = model.config.rank or RANK, model.config.width
        model.factors = nn.Parameter(torch.randn(modalities, rank, width + 1, width) / (width + 1) ** 0.5)
        model.mix = nn.Parameter(torch.ones(rank) / rank)
        return width

    def fuse(self, model: Network, tokens: list[Tensor], seen_BM: Tensor) -> Output:
        """The mixed product, classified."""
        del seen_BM
        product = None
        for x_BLD, factors in zip(tokens, model.factors, strict=True):
            projected = torch.einsum("bd,rde->bre", F.pad(x_BLD.mean(1), (0, 1), value=1.0), factors)
            product = projected if product is None else product * projected
        assert product is not None
        return Output(model.classify(model.dropout(torch.einsum("r,bre->be", model.mix, product))), None)


FUSIONS: Mapping[str, FusionRule] = {
    "early": Early(),
    "late": Late(),
    "hybrid": Hybrid(),
    "gated": Gated(),
    "tensor": TensorProduct(),
    "low_rank": LowRank(),
}


def _weighted(shares_BM: Tensor, values_BMX: Tensor) -> Tensor:
    """Sum over modalities; one with share 0 adds exactly nothing."""
    kept = torch.where(shares_BM[..., None] > 0, values_BMX, 0.0)
    return (shares_BM[..., None] * kept).sum(1)

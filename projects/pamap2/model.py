"""Four encoders and their fusion; a missing modality is a mask, not a value.

Shape suffixes: B windows, W rows, M modalities (hand, chest, ankle, heart rate), C channels of one modality,
L tokens of a modality, D width, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.pamap2.config import HEADS, RANK, ModelConfig
from projects.pamap2.schema import MODALITIES


class Output(NamedTuple):
    """What the network says.

    Attributes:
        logits: shape (B, K).
        shares: weight of each modality in the decision, shape (B, M), rows sum to 1; None where the fusion has none.
    """

    logits: Tensor
    shares: Tensor | None


class Encoder(nn.Module):
    """A modality's window (B, W, C) to tokens (B, L, D)."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        self.kind, width = config.encoder, config.width
        if config.encoder == "cnn":
            layers: list[nn.Module] = []
            for index in range(config.layers):
                # GroupNorm, not BatchNorm: what stands for a missing modality must not leak into its statistics.
                layers += [
                    nn.Conv1d(channels if index == 0 else width, width, 7, stride=2, padding=3),
                    nn.GroupNorm(4 if width % 4 == 0 else 1, width),
                    nn.ReLU(),
                ]
            self.body: nn.Module = nn.Sequential(*layers)
        elif config.encoder == "lstm":
            self.body = nn.LSTM(channels, width, config.layers, batch_first=True)
        else:
            self.patch = nn.Conv1d(channels, width, 8, stride=8)
            self.positions = nn.Parameter(torch.randn(1, 2048, width) * 0.02)
            heads = next(number for number in (4, 2, 1) if width % number == 0)
            layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.1, batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, x_BWC: Tensor) -> Tensor:
        """Tokens, (B, L, D)."""
        if self.kind == "cnn":
            return self.body(x_BWC.transpose(1, 2)).transpose(1, 2)
        if self.kind == "lstm":
            return self.body(x_BWC)[0]
        x_BLD = self.patch(x_BWC.transpose(1, 2)).transpose(1, 2)
        return self.body(x_BLD + self.positions[:, : x_BLD.shape[1]])


class FusionModel(nn.Module):
    """Windows of several modalities to class logits."""

    def __init__(self, config: ModelConfig, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.used = [index for index, name in enumerate(MODALITIES) if name in config.modalities]
        channels = [channels[index] for index in self.used]
        width, count = config.width, len(channels)
        joined = config.fusion == "early"
        self.encoders = nn.ModuleList(Encoder(config, size) for size in ([sum(channels)] if joined else channels))
        self.tokens = nn.ParameterList(torch.randn(size) * 0.02 for size in channels)
        # Raw zeros in normalised units; known once the training windows are (`know_scale`).
        for index, size in enumerate(channels):
            self.register_buffer(f"zero_{index}", torch.zeros(size))
        self.dropout = nn.Dropout(config.dropout)
        if config.fusion == "late":
            self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in channels)
            return
        if config.fusion == "hybrid":
            self.kinds = nn.Parameter(torch.randn(count, width) * 0.02)
            self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.norm = nn.LayerNorm(width)
            self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        elif config.fusion == "gated":
            self.gate = nn.Linear(width, 1)
        elif config.fusion == "tensor":
            self.squeeze = nn.ModuleList(nn.Linear(width, 4) for _ in channels)
        elif config.fusion == "low_rank":
            rank = config.rank or RANK
            self.factors = nn.Parameter(torch.randn(count, rank, width + 1, width) / (width + 1) ** 0.5)
            self.mix = nn.Parameter(torch.ones(rank) / rank)
        size = 5**count if config.fusion == "tensor" else width
        self.classify = nn.Linear(size, classes)

    def forward(self, windows: Sequence[Tensor], present_BM: Tensor) -> Output:
        """Logits of a batch.

        Args:
            windows: one tensor (B, W, C) per modality, normalised.
            present_BM: bool; where False, the window's contents do not count. One that the network reads has to be
                there wherever missing ones are masked.

        Returns:
            Logits (B, K) and, for late, hybrid and gated, the modalities' shares (B, M).
        """
        out = self._fused([windows[index] for index in self.used], present_BM[:, self.used])
        if out.shares is None:
            return out
        shares_BM = out.shares.new_zeros(present_BM.shape)
        shares_BM[:, self.used] = out.shares
        return Output(out.logits, shares_BM)

    def _fused(self, windows: Sequence[Tensor], present_BM: Tensor) -> Output:
        """The same over the modalities that the network reads, M of them."""
        windows = [self._replaced(window, index, present_BM[:, index]) for index, window in enumerate(windows)]
        if self.config.fusion == "early":
            tokens = self.encoders[0](torch.cat(list(windows), dim=2))
            return Output(self.classify(self.dropout(tokens.mean(1))), None)
        encoded = self._encode(windows)
        return getattr(self, f"_{self.config.fusion}")(encoded, self._seen(present_BM))

    def know_scale(self, means: Sequence[Tensor], deviations: Sequence[Tensor]) -> None:
        """Takes over where raw zeros lie after normalisation, for ``missing: zero``."""
        for place, index in enumerate(self.used):
            self.get_buffer(f"zero_{place}").copy_(-means[index] / deviations[index])

    def _replaced(self, x_BWC: Tensor, index: int, present_B: Tensor) -> Tensor:
        """What the network reads in place of a missing window; after normalisation 0 is the mean of the train rows."""
        if self.config.missing == "learned_token":
            filler = self.tokens[index]
        elif self.config.missing == "zero":
            filler = self.get_buffer(f"zero_{index}")
        else:
            filler = torch.zeros_like(self.tokens[index])
        return torch.where(present_B[:, None, None], x_BWC, filler)

    def _seen(self, present_BM: Tensor) -> Tensor:
        """Which modalities take part in the fusion: only masking leaves one out."""
        return present_BM if self.config.missing == "masked_attention" else torch.ones_like(present_BM)

    def _encode(self, windows: Sequence[Tensor]) -> list[Tensor]:
        """Tokens of each modality; in folds, which saves memory and changes nothing else."""
        size = self.config.modality_fold_size or len(windows)
        found: list[Tensor] = []
        for start in range(0, len(windows), size):
            pairs = zip(self.encoders[start : start + size], windows[start : start + size], strict=True)
            found += [encoder(window) for encoder, window in pairs]
        return found

    def _late(self, encoded: list[Tensor], seen_BM: Tensor) -> Output:
        logits_BMK = torch.stack(
            [head(self.dropout(one.mean(1))) for head, one in zip(self.heads, encoded, strict=True)], dim=1
        )
        shares_BM = seen_BM / seen_BM.sum(1, keepdim=True)
        return Output(_weighted(shares_BM, logits_BMK), shares_BM)

    def _hybrid(self, encoded: list[Tensor], seen_BM: Tensor) -> Output:
        """One learnt query looks at every token of every modality that is there."""
        lengths = [one.shape[1] for one in encoded]
        x_BLD = self.norm(torch.cat([one + kind for one, kind in zip(encoded, self.kinds, strict=True)], dim=1))
        seen_BL = torch.cat([seen_BM[:, i : i + 1].expand(-1, n) for i, n in enumerate(lengths)], dim=1)
        heads = self.config.heads or HEADS
        q, k, v = self.query.expand(len(x_BLD), -1, -1), self.key(x_BLD), self.value(x_BLD)
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = scores.masked_fill(~seen_BL[:, None, None], float("-inf")).softmax(-1)
        # A weight of 0 must win against any value, also one that is not finite.
        v = torch.where(seen_BL[:, None, :, None], v, 0.0)
        pooled = (weights @ v).transpose(1, 2).flatten(1)
        shares = torch.stack([part.sum(-1) for part in weights.mean(1)[:, 0].split(lengths, dim=1)], dim=1)
        return Output(self.classify(self.dropout(pooled)), shares)

    def _gated(self, encoded: list[Tensor], seen_BM: Tensor) -> Output:
        pooled_BMD = torch.stack([one.mean(1) for one in encoded], dim=1)
        scores_BM = self.gate(pooled_BMD)[..., 0].masked_fill(~seen_BM, float("-inf"))
        shares_BM = scores_BM.softmax(1)
        return Output(self.classify(self.dropout(_weighted(shares_BM, pooled_BMD))), shares_BM)

    def _tensor(self, encoded: list[Tensor], _seen_BM: Tensor) -> Output:
        """Outer product of all modalities with a constant (Zadeh et al. 2017), of width 5 each."""
        joint = encoded[0].new_ones(len(encoded[0]), 1)
        for squeeze, one in zip(self.squeeze, encoded, strict=True):
            own = F.pad(squeeze(one.mean(1)), (0, 1), value=1.0)
            joint = (joint[:, :, None] * own[:, None]).flatten(1)
        return Output(self.classify(self.dropout(joint)), None)

    def _low_rank(self, encoded: list[Tensor], _seen_BM: Tensor) -> Output:
        """The same product through factors of low rank (Liu et al. 2018)."""
        product = None
        for one, factor in zip(encoded, self.factors, strict=True):
            own = torch.einsum("bd,rde->bre", F.pad(one.mean(1), (0, 1), value=1.0), factor)
            product = own if product is None else product * own
        assert product is not None
        return Output(self.classify(self.dropout(torch.einsum("r,bre->be", self.mix, product))), None)


def _weighted(shares_BM: Tensor, values_BMX: Tensor) -> Tensor:
    """Sum over modalities; one with share 0 adds exactly nothing."""
    kept = torch.where(shares_BM[..., None] > 0, values_BMX, 0.0)
    return (shares_BM[..., None] * kept).sum(1)

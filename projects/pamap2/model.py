"""Four encoders and their fusion; a missing modality is a mask, not a value.

Shape suffixes: B windows, W rows, M modalities (hand, chest, ankle, heart rate), C channels of one modality,
L tokens of a modality, D width, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from projects.pamap2.config import ModelConfig
from projects.pamap2.fusions import FUSIONS, Network, Output
from projects.pamap2.schema import MODALITIES


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


class FusionModel(Network):
    """Windows of several modalities to class logits."""

    def __init__(self, config: ModelConfig, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.used = [index for index, name in enumerate(MODALITIES) if name in config.modalities]
        channels = [channels[index] for index in self.used]
        count = len(channels)
        self.joined = config.fusion == "early"
        self.encoders = nn.ModuleList(Encoder(config, size) for size in ([sum(channels)] if self.joined else channels))
        self.tokens = nn.ParameterList(torch.randn(size) * 0.02 for size in channels)
        # Raw zeros in normalised units; known once the training windows are (`set_normalization`).
        for index, size in enumerate(channels):
            self.register_buffer(f"zero_{index}", torch.zeros(size))
        self.dropout = nn.Dropout(config.dropout)
        self.fusion = FUSIONS[config.fusion]
        size = self.fusion.add_parts(self, count)
        if size:
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
        if self.joined:
            windows = [torch.cat(windows, dim=2)]
        return self.fusion.fuse(self, self._encode(windows), self._seen(present_BM))

    def set_normalization(self, means: Sequence[Tensor], deviations: Sequence[Tensor]) -> None:
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
        tokens: list[Tensor] = []
        for start in range(0, len(windows), size):
            pairs = zip(self.encoders[start : start + size], windows[start : start + size], strict=True)
            tokens += [encoder(window) for encoder, window in pairs]
        return tokens

"""The SPOTER network (Bohacek & Hruz 2022), written for packed batches.

A batch is the frames of all its clips joined, without padding: row-wise layers touch real frames only.
Attention works on padded copies under a key mask, which is exact (mass on padding is 0).
Names and shapes of the parameters are those of the published code, so its state dicts load.

Shape suffixes: N frames of the batch, B clips, T frames of the longest clip, D width, H heads,
E width of a head, C classes.

Why: docs/decisions/008-attention-in-plain-steps.md
     docs/decisions/039-dropout-masks.md
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.spoter.config import ModelConfig
from projects.spoter.skeleton import FRAME_SIZE

# Called with a module's name (enc_0 .. dec_5) and its attention weights, shape (B, H, queries, T).
Observer = Callable[[str, Tensor], None]


class Layout(NamedTuple):
    """Where the frames of a packed batch lie in its padded form.

    Attributes:
        place_N: int64; position of each frame in the flattened (B, T); None where all lengths are equal.
        mask_B11T: True at real frames; None where all lengths are equal.
        clips: B.
        longest: T.
    """

    place_N: Tensor | None  # noqa: N815 shape suffix
    mask_B11T: Tensor | None  # noqa: N815 shape suffix
    clips: int
    longest: int

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> "Layout":
        """The layout of clips of these lengths; built on the host, so that no layer waits for the device."""
        longest = max(lengths)
        if min(lengths) == longest:
            return cls(None, None, len(lengths), longest)
        mask_BT = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
        place_N = mask_BT.flatten().nonzero().squeeze(1)
        return cls(place_N.to(device), mask_BT[:, None, None].to(device), len(lengths), longest)

    def positions(self, device: torch.device) -> Tensor:
        """Index of each packed frame in its clip, shape (N,), int64."""
        if self.place_N is None:
            return torch.arange(self.longest, device=device).repeat(self.clips)
        return self.place_N % self.longest

    def pad(self, x_ND: Tensor) -> Tensor:
        """Packed to padded, (B, T, D); padding is 0."""
        if self.place_N is not None:
            padded = x_ND.new_zeros(self.clips * self.longest, x_ND.shape[-1])
            x_ND = padded.index_copy(0, self.place_N, x_ND)
        return x_ND.view(self.clips, self.longest, x_ND.shape[-1])

    def pack(self, x_BTD: Tensor) -> Tensor:
        """Padded to packed, (N, D)."""
        flat = x_BTD.reshape(self.clips * self.longest, x_BTD.shape[-1])
        return flat if self.place_N is None else flat.index_select(0, self.place_N)


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014); on a CPU its masks come four to a random integer.

    torch draws one Bernoulli variable per element, which costs more than the multiplications around it.
    The rate is rounded to a multiple of 2**-16, and the scale to its inverse, so the mean is exact.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes elements at random while training; any shape."""
        if not self.training or self.rate == 0:
            return x
        if x.is_cuda:
            return F.dropout(x, self.rate)
        dropped = round(self.rate * 65536)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        mask = torch.empty_like(x)
        torch.ge(draws.view(torch.int16)[: x.numel()].view(x.shape), dropped - 32768, out=mask)
        return x * mask.mul_(65536 / (65536 - dropped))


class Attention(nn.Module):
    """Multi-head attention with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def split(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, E)."""
        clips, frames, width = x_BTD.shape
        return x_BTD.view(clips, frames, self.heads, width // self.heads).transpose(1, 2)

    def attend(
        self, q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, observe: Callable | None
    ) -> Tensor:
        """Attention, (B, Q, D); an observer sees the weights, and the output is the same to the bit without one.

        On a GPU they are computed beside the fused kernel. On a CPU that kernel is no faster than the plain steps,
        and has no dropout of its own: the weights are there anyway.
        """
        if q_BHQE.is_cuda:
            if observe is not None:
                observe(attention_weights(q_BHQE, k_BHTE, mask))
            rate = self.dropout.rate if self.training else 0.0
            mixed_BHQE = F.scaled_dot_product_attention(q_BHQE, k_BHTE, v_BHTE, attn_mask=mask, dropout_p=rate)
        else:
            weights = attention_weights(q_BHQE, k_BHTE, mask)
            if observe is not None:
                observe(weights)
            mixed_BHQE = self.dropout(weights) @ v_BHTE
        return mixed_BHQE.transpose(1, 2).flatten(2)


def attention_weights(q_BHQE: Tensor, k_BHTE: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(E)) under the key mask, shape (B, H, Q, T); masked keys get exactly 0."""
    scores = (q_BHQE * q_BHQE.shape[-1] ** -0.5) @ k_BHTE.transpose(-2, -1)
    if mask is not None:
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, float("-inf"))
    return scores.softmax(dim=-1)


class SelfAttention(Attention):
    """Every frame looks at every frame of its clip."""

    def forward(self, x_ND: Tensor, layout: Layout, observe: Callable | None = None) -> Tensor:
        """Packed frames to packed frames, (N, D)."""
        qkv_BTD = layout.pad(F.linear(x_ND, self.in_proj_weight, self.in_proj_bias))
        q, k, v = (self.split(part) for part in qkv_BTD.chunk(3, dim=-1))
        return self.out_proj(layout.pack(self.attend(q, k, v, layout.mask_B11T, observe)))


class CrossAttention(Attention):
    """The class query looks at every frame of its clip."""

    def forward(self, query_BD: Tensor, memory_ND: Tensor, layout: Layout, observe: Callable | None = None) -> Tensor:
        """One query per clip and the packed encoder output to (B, D)."""
        width = query_BD.shape[-1]
        q_BD = F.linear(query_BD, self.in_proj_weight[:width], self.in_proj_bias[:width])
        kv_BTD = layout.pad(F.linear(memory_ND, self.in_proj_weight[width:], self.in_proj_bias[width:]))
        k, v = (self.split(part) for part in kv_BTD.chunk(2, dim=-1))
        return self.out_proj(self.attend(self.split(q_BD[:, None]), k, v, layout.mask_B11T, observe)[:, 0])


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer (Vaswani et al. 2017)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = FRAME_SIZE
        self.self_attn = SelfAttention(width, config.heads, config.dropout)
        self.linear1 = nn.Linear(width, config.feed_forward)
        self.linear2 = nn.Linear(config.feed_forward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_ND: Tensor, layout: Layout, observe: Callable | None = None) -> Tensor:
        """Packed frames to packed frames, (N, D)."""
        x_ND = self.norm1(x_ND + self.dropout(self.self_attn(x_ND, layout, observe)))
        inner = self.dropout(self.linear1(x_ND).relu_())
        return self.norm2(x_ND + self.dropout(_narrowed(self.linear2, inner)))


def _narrowed(linear: nn.Linear, x_NF: Tensor) -> Tensor:
    """A linear layer from a wide input to a narrow output, computed as W x^T: an eighth faster on a CPU than x W^T."""
    return torch.addmm(linear.bias[:, None], linear.weight, x_NF.t()).t()


class DecoderLayer(nn.Module):
    """SPOTER's decoder layer: no self-attention; the query is added to its own dropped-out copy instead."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = FRAME_SIZE
        self.multihead_attn = CrossAttention(width, config.heads, config.dropout)
        self.linear1 = nn.Linear(width, config.feed_forward)
        self.linear2 = nn.Linear(config.feed_forward, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BD: Tensor, memory_ND: Tensor, layout: Layout, observe: Callable | None = None) -> Tensor:
        """One query per clip, (B, D)."""
        x_BD = self.norm1(x_BD + self.dropout(x_BD))
        x_BD = self.norm2(x_BD + self.dropout(self.multihead_attn(x_BD, memory_ND, layout, observe)))
        inner = self.dropout(self.linear1(x_BD).relu_())
        return self.norm3(x_BD + self.dropout(self.linear2(inner)))


class Stack(nn.Module):
    """Layers and the LayerNorm after the last of them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(FRAME_SIZE)


class Transformer(nn.Module):
    """Encoder and decoder under the published names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = Stack([EncoderLayer(config) for _ in range(config.layers)])
        self.decoder = Stack([DecoderLayer(config) for _ in range(config.layers)])
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # The published decoder starts as copies of one layer.
        for layer in self.decoder.layers[1:]:
            layer.load_state_dict(self.decoder.layers[0].state_dict())


def sinusoids(positions_N: Tensor, width: int) -> Tensor:
    """Sinusoidal position encoding (Vaswani et al. 2017, section 3.5), (N, width), float32."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, device=positions_N.device) / width)
    angles = positions_N[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Spoter(nn.Module):
    """Skeleton frames to class logits.

    As published there is no temporal encoding: one vector ``pos`` is added to every frame, so the logits do
    not depend on the order of the frames. ``positions`` in the config adds one, without any parameters.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.heads, self.positions = config.heads, config.positions
        self.row_embed = nn.Parameter(torch.rand(50, FRAME_SIZE))
        self.pos = nn.Parameter(self.row_embed.detach()[0].clone().view(1, 1, FRAME_SIZE))
        self.class_query = nn.Parameter(torch.rand(1, FRAME_SIZE))
        self.transformer = Transformer(config)
        self.linear_class = nn.Linear(FRAME_SIZE, classes)
        # Kept for the published state dicts only: no output depends on it.
        self.row_embed.requires_grad_(False)

    def forward(self, frames_ND: Tensor, layout: Layout, observer: Observer | None = None) -> Tensor:
        """Logits of a packed batch.

        Args:
            frames_ND: shape (N, 108), normalised frames, x and y interleaved, clip after clip.
            layout: the lengths of the clips.
            observer: gets the attention weights of each of the modules, enc_0 .. and dec_0 ..

        Returns:
            Shape (B, C).
        """
        memory_ND = self.encode(frames_ND, layout, observer)
        return self.linear_class(self.decode(memory_ND, layout, observer))

    def attentions(self) -> dict[str, "Attention"]:
        """The attention modules by name, encoder first: ``enc_0`` .. ``dec_5``."""
        encoder = {f"enc_{i}": layer.self_attn for i, layer in enumerate(self.transformer.encoder.layers)}
        decoder = {f"dec_{i}": layer.multihead_attn for i, layer in enumerate(self.transformer.decoder.layers)}
        return {name: module for name, module in (encoder | decoder).items() if isinstance(module, Attention)}

    def encode(self, frames_ND: Tensor, layout: Layout, observer: Observer | None = None) -> Tensor:
        """Encoder output after its final LayerNorm, (N, D)."""
        return self.encode_from(0, self.embed(frames_ND, layout), layout, observer)

    def embed(self, frames_ND: Tensor, layout: Layout) -> Tensor:
        """Input of the first encoder layer, (N, D)."""
        x_ND = frames_ND + self.pos[0]
        if self.positions:
            x_ND = x_ND + sinusoids(layout.positions(x_ND.device), x_ND.shape[-1]).to(x_ND.dtype)
        return x_ND

    def encode_from(self, first: int, x_ND: Tensor, layout: Layout, observer: Observer | None = None) -> Tensor:
        """Encoder output from the input of layer ``first`` on, (N, D)."""
        for index, layer in enumerate(self.transformer.encoder.layers[first:], start=first):
            x_ND = layer(x_ND, layout, _named(observer, f"enc_{index}"))
        return self.transformer.encoder.norm(x_ND)

    def decode(self, memory_ND: Tensor, layout: Layout, observer: Observer | None = None) -> Tensor:
        """Decoder output after its final LayerNorm, (B, D)."""
        x_BD = self.class_query.expand(layout.clips, -1)
        for index, layer in enumerate(self.transformer.decoder.layers):
            x_BD = layer(x_BD, memory_ND, layout, _named(observer, f"dec_{index}"))
        return self.transformer.decoder.norm(x_BD)


def _named(observer: Observer | None, name: str) -> Callable[[Tensor], None] | None:
    return None if observer is None else lambda weights: observer(name, weights)

"""Training steps small enough for tests: every family in miniature, and models drawn at random."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from labtrail.stepgraph.step import TrainingStep, plain_step
from projects.profiler.families import Sizes, example

_WORDS = {"vocab_size": 64}
_NO_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BERT = {
    **_WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
# The settings that make each family small; dropout is on in all that have it.
MINIATURES: Mapping[str, dict[str, Any]] = {
    "resnet50": {"depths": [1, 2, 1, 1], "hidden_sizes": [16, 32, 32, 64], "embedding_size": 8, "num_labels": 10},
    "resnet152": {"depths": [2, 1, 2, 1], "hidden_sizes": [16, 16, 32, 32], "embedding_size": 8, "num_labels": 10},
    "mobilenet-v2": {"depth_multiplier": 0.25, "num_labels": 10},
    "convnext-tiny": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 16, 32],
        "num_labels": 10,
        "drop_path_rate": 0.3,
    },
    "vit-base": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "patch_size": 8,
        "hidden_dropout_prob": 0.1,
        "num_labels": 10,
    },
    "swin-tiny": {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4, "num_labels": 10},
    "bert-base": _BERT,
    "bert-large": {**_BERT, "num_hidden_layers": 3},
    "gpt2": {**_WORDS, **_NO_TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "llama-small": {
        **_WORDS,
        **_NO_TOKENS,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
    },
    "t5-small": {**_WORDS, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 2, "d_kv": 16},
    "whisper-tiny": {
        **_WORDS,
        **_NO_TOKENS,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_source_positions": 20,
        "max_target_positions": 32,
        "decoder_start_token_id": 1,
        "dropout": 0.1,
    },
    "spoter": {"model": {"layers": 2, "feed_forward": 64}},
    "pamap2": {"model": {"width": 8}, "split": {"window": 64, "step": 32}},
    "distill": {"model": {"name": "resnet8", "width": 8}},
    "tiny": {},
}
SMALL = Sizes(batch=4, sequence=12, image=64)

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]


def adamw(parameters: list[nn.Parameter]) -> Optimizer:
    return AdamW(parameters, lr=1e-2, fused=True)


def miniature(name: str, sizes: Sizes = SMALL, optimizer: MakeOptimizer = adamw) -> TrainingStep:
    """A family in miniature, with real tensors; its optimizer has not stepped."""
    torch.manual_seed(0)
    model, batch, loss = example(name, MINIATURES[name], sizes)
    return step_of(model.train(), batch, loss, optimizer)


def step_of(
    model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor], optimizer: MakeOptimizer = adamw
) -> TrainingStep:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return TrainingStep(model, optimizer(parameters), batch, plain_step(loss))


def twin(step: TrainingStep) -> TrainingStep:
    """The same step on copies of its model and optimizer."""
    model, optimizer = copy.deepcopy((step.model, step.optimizer))
    return TrainingStep(model, optimizer, step.batch, step.run)


class RandomModel(nn.Module):
    """Operations chosen by numbers: views, in-place changes, several outputs, dropout, batch norm, a tied weight."""

    WIDTH = 12
    KINDS = 11

    def __init__(self, choices: list[int]) -> None:
        super().__init__()
        self.choices = choices
        self.shared = nn.Linear(self.WIDTH, self.WIDTH)
        self.layers = nn.ModuleList(nn.Linear(self.WIDTH, self.WIDTH) for _ in choices)
        self.norms = nn.ModuleList(nn.BatchNorm1d(self.WIDTH) for _ in choices)

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.shared(x)
        for index, kind in enumerate(self.choices):
            x = self._apply_kind(kind, x, first, index)
        return x

    def _apply_kind(self, kind: int, x: Tensor, first: Tensor, index: int) -> Tensor:
        layer, norm = self.layers[index], self.norms[index]
        if kind == 0:
            return F.relu(layer(x))
        if kind == 1:
            return layer(x).relu_()
        if kind == 2:
            return F.dropout(x, 0.3)
        if kind == 3:
            return norm(x)
        if kind == 4:
            return self.shared(x)
        if kind == 5:
            halves = torch.split(layer(x), [5, 7], dim=1)
            return torch.cat([halves[1].tanh(), halves[0]], dim=1)
        if kind == 6:
            return x.view(len(x), 3, 4).transpose(1, 2).reshape(len(x), 12) + first
        if kind == 7:
            values, _ = layer(x).sort(dim=1)
            return values * x
        if kind == 8:
            y = layer(x)
            y[:, :4].mul_(0.5)
            return y
        if kind == 9:
            return x + torch.tensor([0.25])
        mean, spread = torch.var_mean(x, dim=1, keepdim=True)
        return (x - spread) * mean.sigmoid()


def random_step(choices: list[int], batch: int = 6) -> TrainingStep:
    torch.manual_seed(sum(choices))
    model = RandomModel(choices)
    data = (torch.randn(batch, RandomModel.WIDTH), torch.randint(0, RandomModel.WIDTH, (batch,)))

    def loss(network: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(network(given[0]), given[1])

    return step_of(model.train(), data, loss)

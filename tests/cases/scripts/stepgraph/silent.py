"""Six trainings whose gradients LeanBackward gets wrong without a word: each line should say True."""
import copy, random, numpy as np, torch
from torch import nn
from labtrail.running.remat import LeanBackward
torch.set_num_threads(1)
mlp = lambda: nn.Sequential(*[l for _ in range(5) for l in (nn.Linear(64, 64), nn.GELU())], nn.Linear(64, 64))
mse = lambda m, b: ((m(b[0]) - b[1]) ** 2).mean()
data = lambda: [(torch.randn(256, 64), torch.randn(256, 64)) for _ in range(2)]
def check(name, loss=mse, prepare=lambda m: None, change=lambda m, i: None, batches=data, factory=mlp):
    found = []
    for lean in (False, True):
        torch.manual_seed(0); random.seed(0); np.random.seed(0)
        m = factory(); prepare(m); by = LeanBackward(m, loss, .75); out = []
        for i, b in enumerate(batches()):
            m.zero_grad(); change(m, i)
            by(b) if lean else loss(m, b).backward()
            out += [p.grad.clone() for p in m.parameters() if p.grad is not None]
        found.append(out)
    print(name, "|", len(found[0]) == len(found[1]) and all(map(torch.equal, *found)), flush=True)
check("plain", )
check("p.register_hook (clipping, masks)", prepare=lambda m: [p.register_hook(lambda g: g.clamp(-1e-5, 1e-5)) for p in m.parameters()])
def mixup(m, b): l = float(np.random.beta(1, 1)); return ((m(l * b[0] + (1 - l) * b[0].flip(0)) - b[1]) ** 2).mean()
check("mixup with np.random.beta in the loss", loss=mixup)
class Deep(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))
    def forward(s, x):
        for l in s.l:
            if random.random() < .8: x = x + torch.tanh(l(x))
        return x
check("stochastic depth with random.random()", factory=Deep)
check("first batch (x, x), second (x, y)", batches=lambda: [(a := torch.randn(256, 64), a), *data()[:1]])
def swap(m, i):
    if i == 1: m[1] = nn.Tanh()
check("a layer replaced after the first step", change=swap)
class Count(nn.Module):
    def __init__(s): super().__init__(); s.m = mlp(); s.n = 0
    def forward(s, x): s.n += 1; return s.m(x) / s.n
check("a counter in forward (wrong at the very first step)", factory=Count, batches=lambda: data()[:1])
check("nn.RReLU (NaN)", factory=lambda: nn.Sequential(*[l for _ in range(5) for l in (nn.Linear(64, 64), nn.RReLU())]))

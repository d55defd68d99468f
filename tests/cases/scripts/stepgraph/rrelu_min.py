import copy, torch
from torch import nn
from labtrail.running.remat import LeanBackward
print(torch.ops.aten.rrelu_with_noise.default._schema)
torch.manual_seed(0)
m = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.RReLU()) for _ in range(5)]); loss = lambda m, b: m(b[0]).pow(2).mean()
x = (torch.randn(256, 64),); n = copy.deepcopy(m)
for memory in (1.0, .6):
    m.zero_grad(); n.zero_grad()
    torch.manual_seed(1); a = loss(m, x); a.backward()
    torch.manual_seed(1); b = LeanBackward(n, loss, memory)(x)
    print("memory", memory, "loss", a.item(), b.item(), "gradients equal:", all(torch.equal(p.grad, q.grad) for p, q in zip(m.parameters(), n.parameters())), "largest |grad|", max(p.grad.abs().max().item() for p in m.parameters()), max(q.grad.abs().max().item() for q in n.parameters()), "nan:", any(q.grad.isnan().any().item() for q in n.parameters()))

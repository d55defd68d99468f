"""What survives a kill: Checkpoint used as execute does, uninterrupted against interrupted after epoch 2 of 4."""
import copy, tempfile, warnings
from pathlib import Path
import torch
from torch import nn
from accelerate import Accelerator
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.run import Run
from labtrail.running.launch import make_accelerator
from labtrail.config import Compute
from labtrail.record import Record
from labtrail.running.seeding import reseed

def first(e):
    return (str(e).splitlines() or ['(no message)'])[0][:220]

acc = make_accelerator(Compute(), None, 60)

def drive(make, stop=None, epochs=4, folder=None):
    folder = folder or Path(tempfile.mkdtemp())
    acc._custom_objects.clear()  # Each drive stands for a process.
    cp = Checkpoint(folder, acc, score=None)
    run = Run("0" * 32, acc, cp)
    last = None
    gen = make(acc, run, epochs)
    run.watch.follow(gen)
    with run.watch:
        for r in gen:
            run.record_taken(); cp.note_best(r); cp.save(r); last = r
            if stop is not None and r.step + 1 == stop:
                gen.close(); cp.flush(); break
    cp.flush()
    return last.metrics["x"], folder

def case(name, make):
    torch.set_grad_enabled(True)
    try:
        whole, _ = drive(make)
        _, folder = drive(make, stop=2)
        resumed, _ = drive(make, folder=folder)
        print(f"{'same to the bit' if whole == resumed else 'DIFFERENT, SILENTLY':20} {name}: {whole:.9f} {resumed:.9f}", flush=True)
    except Exception as e:
        print(f"ERROR                 {name}: {type(e).__name__}: {first(e)}", flush=True)

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)); Y = (X.sum(1) > 0).long()

def base(prepare_extra=None, per_epoch=None, model=None, value=None):
    def make(acc, cp, epochs):
        reseed(0)
        m = model() if model else nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        m, o = acc.prepare(m, torch.optim.SGD(m.parameters(), lr=0.5, momentum=0.9))
        extra = prepare_extra(m, o) if prepare_extra else None
        registered = any(extra is one for one in acc._custom_objects)
        p = cp.restore(m, o, **({} if extra is None or registered else {"extra": extra}))
        for e in range(p.epoch, epochs):
            reseed(0, e)
            for part in torch.randperm(64).split(16):
                loss = nn.functional.cross_entropy(m(X[part]), Y[part]); acc.backward(loss); o.step(); o.zero_grad()
                if per_epoch: per_epoch("step", m, o, extra, loss)
            if per_epoch: per_epoch("epoch", m, o, extra, loss)
            p.epoch = e + 1
            x = value(m, extra) if value else float(nn.functional.cross_entropy(m(X), Y).detach())
            yield Record(e, {"x": x})
    return make

case("plain model and SGD", base())
case("StepLR, stepped per epoch (global epoch not given)", base(lambda m, o: torch.optim.lr_scheduler.StepLR(o, 1, 0.3), lambda w, m, o, s, l: s.step() if w == "epoch" else None))
case("StepLR via accelerator.prepare", base(lambda m, o: acc.prepare(torch.optim.lr_scheduler.StepLR(o, 1, 0.3)), lambda w, m, o, s, l: s.step() if w == "epoch" else None))
case("CosineAnnealingLR", base(lambda m, o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4), lambda w, m, o, s, l: s.step() if w == "epoch" else None))
case("OneCycleLR per step", base(lambda m, o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=64), lambda w, m, o, s, l: s.step() if w == "step" else None))
case("ReduceLROnPlateau", base(lambda m, o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.3), lambda w, m, o, s, l: s.step(1.0) if w == "epoch" else None))
ema = lambda m, o: copy.deepcopy(m).requires_grad_(False)
def ema_step(w, m, o, s, l):
    if w == "step":
        for a, b in zip(s.parameters(), m.parameters()): a.data.lerp_(b.data, 0.1)
case("EMA beside the model (deepcopy)", base(ema, ema_step, value=lambda m, s: float(nn.functional.cross_entropy(s(X), Y))))
def swa(m, o):
    return torch.optim.swa_utils.AveragedModel(m)
case("torch AveragedModel beside the model", base(swa, lambda w, m, o, s, l: s.update_parameters(m) if w == "step" else None, value=lambda m, s: float(nn.functional.cross_entropy(s(X), Y))))
class Counter:
    def __init__(self): self.n = 0.
    def state_dict(self): return {"n": self.n}
    def load_state_dict(self, d): self.n = d["n"]
def reg(m, o):
    c = Counter(); acc.register_for_checkpointing(c); return c
def count(w, m, o, s, l): s.n += float(l.detach())
case("accelerator.register_for_checkpointing(object)", base(reg, count, value=lambda m, s: s.n))
class Whole(nn.Module):
    def __init__(self):
        super().__init__(); self.net = nn.Linear(8, 2); self.ema = copy.deepcopy(self.net).requires_grad_(False)
    def forward(self, x): return self.net(x)
def whole_step(w, m, o, s, l):
    for a, b in zip(m.ema.parameters(), m.net.parameters()): a.data.lerp_(b.data, 0.1)
case("EMA inside the module (the documented way)", base(None, whole_step, model=Whole, value=lambda m, s: float(nn.functional.cross_entropy(m.ema(X), Y))))
class Extra(nn.Linear):
    def __init__(self): super().__init__(8, 2); self.n = 0
    def get_extra_state(self): return {"n": self.n}
    def set_extra_state(self, s): self.n = s["n"]
def extra_step(w, m, o, s, l): m.n += 1
case("nn.Module.get_extra_state with a dict", base(None, extra_step, model=Extra, value=lambda m, s: float(m.n)))
class Tied(nn.Module):
    def __init__(self):
        super().__init__(); self.a = nn.Linear(8, 8); self.b = nn.Linear(8, 8); self.b.weight = self.a.weight; self.c = nn.Linear(8, 2)
    def forward(self, x): return self.c(self.b(self.a(x)))
case("tied weights", base(model=Tied))
class NonContig(nn.Module):
    def __init__(self):
        super().__init__(); self.w = nn.Parameter(torch.randn(2, 8).t()); 
    def forward(self, x): return x @ self.w
case("a parameter that is not contiguous", base(model=NonContig))
class Cplx(nn.Module):
    def __init__(self):
        super().__init__(); self.l = nn.Linear(8, 2); self.register_buffer("f", torch.randn(3, dtype=torch.complex64))
    def forward(self, x): return self.l(x) + self.f.real.sum()
case("a complex buffer", base(model=Cplx))
class Sparse(nn.Module):
    def __init__(self):
        super().__init__(); self.l = nn.Linear(8, 2); self.register_buffer("s", torch.eye(8).to_sparse())
    def forward(self, x): return self.l(torch.sparse.mm(self.s, x.T).T)
case("a sparse buffer (graph adjacency)", base(model=Sparse))
def gan(wrap):
    def make(acc, cp, epochs):
        reseed(0)
        g, d = nn.Linear(4, 8), nn.Linear(8, 1)
        og, od = torch.optim.Adam(g.parameters(), 0.01), torch.optim.Adam(d.parameters(), 0.02)
        both = nn.ModuleDict({"g": g, "d": d})
        if wrap == "duck":
            class Two:
                def state_dict(self): return {"g": og.state_dict(), "d": od.state_dict()}
                def load_state_dict(self, s): og.load_state_dict(s["g"]); od.load_state_dict(s["d"])
            p = cp.restore(both, Two())
        elif wrap == "list":
            p = cp.restore([g, d], [og, od])
        else:
            p = cp.restore(g, og); p = cp.restore(d, od)
        for e in range(p.epoch, epochs):
            reseed(0, e)
            fake = g(torch.randn(16, 4))
            ld = nn.functional.softplus(-d(X[:16])).mean() + nn.functional.softplus(d(fake.detach())).mean(); ld.backward(); od.step(); od.zero_grad()
            lg = nn.functional.softplus(-d(fake)).mean(); lg.backward(); og.step(); og.zero_grad(); od.zero_grad()
            p.epoch = e + 1
            yield Record(e, {"x": float((lg + ld).detach())})
    return make
case("GAN: restore called twice, once for each pair", gan("twice"))
case("GAN: restore([g, d], [og, od])", gan("list"))
case("GAN: ModuleDict and an own object with state_dict (undocumented)", gan("duck"))
def none_opt(acc, cp, epochs):
    m = nn.Linear(2, 1); p = cp.restore(m, None)
    for e in range(p.epoch, epochs):
        p.epoch = e + 1
        yield Record(e, {"x": 1.0})
case("no optimizer (evaluation, k-means): restore(model, None)", none_opt)
def lbfgs(acc, cp, epochs):
    reseed(0); m = nn.Linear(8, 2); o = torch.optim.LBFGS(m.parameters(), max_iter=3)
    p = cp.restore(m, o)
    for e in range(p.epoch, epochs):
        def close():
            o.zero_grad(); l = nn.functional.cross_entropy(m(X), Y); l.backward(); return l
        l = o.step(close); p.epoch = e + 1
        yield Record(e, {"x": float(l.detach())})
case("LBFGS", lbfgs)
def loader(acc, cp, epochs):
    reseed(0); m = nn.Linear(8, 2); ds = torch.utils.data.TensorDataset(X, Y)
    dl = torch.utils.data.DataLoader(ds, 16, shuffle=True)
    m, o, dl = acc.prepare(m, torch.optim.SGD(m.parameters(), 0.5), dl); p = cp.restore(m, o)
    for e in range(p.epoch, epochs):
        for x, y in dl:
            l = nn.functional.cross_entropy(m(x), y); acc.backward(l); o.step(); o.zero_grad()
        p.epoch = e + 1
        yield Record(e, {"x": float(l.detach())})
case("accelerate DataLoader shuffle, nobody calls reseed", loader)
def gen_loader(acc, cp, epochs):
    reseed(0); m = nn.Linear(8, 2); ds = torch.utils.data.TensorDataset(X, Y)
    dl = torch.utils.data.DataLoader(ds, 16, shuffle=True, generator=torch.Generator().manual_seed(5))
    m, o = acc.prepare(m, torch.optim.SGD(m.parameters(), 0.5)); p = cp.restore(m, o, order=dl.generator)
    for e in range(p.epoch, epochs):
        for x, y in dl:
            l = nn.functional.cross_entropy(m(x), y); acc.backward(l); o.step(); o.zero_grad()
        p.epoch = e + 1
        yield Record(e, {"x": float(l.detach())})
case("DataLoader with its own torch.Generator", gen_loader)
def rng_np(acc, cp, epochs):
    rng = __import__("numpy").random.default_rng(3); m = nn.Linear(8, 2); o = torch.optim.SGD(m.parameters(), 0.5); p = cp.restore(m, o, rng=rng)
    for e in range(p.epoch, epochs):
        p.epoch = e + 1
        yield Record(e, {"x": float(rng.random())})
case("numpy default_rng kept over epochs", rng_np)
def forgot(acc, cp, epochs):
    reseed(0); m = nn.Linear(8, 2); o = torch.optim.SGD(m.parameters(), 0.5); p = cp.restore(m, o)
    for e in range(p.epoch, epochs):
        l = nn.functional.cross_entropy(m(X), Y); l.backward(); o.step(); o.zero_grad()
        yield Record(e, {"x": float(l.detach())})
        p.epoch = e + 1
case("progress.epoch advanced after the yield (rule 2 broken)", forgot)
def never(acc, cp, epochs):
    reseed(0); m = nn.Linear(8, 2); o = torch.optim.SGD(m.parameters(), 0.5); cp.restore(m, o)
    for e in range(epochs):
        l = nn.functional.cross_entropy(m(X), Y); l.backward(); o.step(); o.zero_grad()
        yield Record(e, {"x": float(l.detach())})
case("progress ignored altogether", never)
def norestore(acc, cp, epochs):
    reseed(0); m = nn.Linear(8, 2); o = torch.optim.SGD(m.parameters(), 0.5)
    for e in range(epochs):
        l = nn.functional.cross_entropy(m(X), Y); l.backward(); o.step(); o.zero_grad()
        yield Record(e, {"x": float(l.detach())})
case("restore never called", norestore)

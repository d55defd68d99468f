"""Runs one case: 3 steps by plain backward and by LeanBackward, bits compared; the peak predicted and measured."""
import copy, sys, time, random, traceback, warnings, logging, os
warnings.simplefilter("ignore")
import numpy as np, torch
logging.getLogger('torch._subclasses.fake_tensor').setLevel(logging.CRITICAL)
from torch import nn
torch.set_num_threads(1)
from labtrail.errors import LabtrailError
from labtrail.running.remat import LeanBackward
from labtrail.stepgraph.step import TrainingStep, plain_step
from labtrail.stepgraph.trace import trace
from labtrail.stepgraph.memory import peak_of, held_by
from labtrail.stepgraph.costs import costs_of, peak_of_graph
from labtrail.stepgraph.roofline import MACHINES, roofline
torch.use_deterministic_algorithms(False)

def seed(s):
    random.seed(s); np.random.seed(s); torch.manual_seed(s)

def same(a, b):
    if a is None or b is None: return a is None and b is None
    if a.is_sparse or b.is_sparse:
        return a.is_sparse == b.is_sparse and torch.equal(a.to_dense(), b.to_dense())
    return a.shape == b.shape and a.dtype == b.dtype and (torch.equal(a, b) or torch.equal(torch.nan_to_num(a.float(), 77.), torch.nan_to_num(b.float(), 77.)))

def loop(model, batches, loss, opt, backward, out, around=None):
    optimizer = opt(model)
    for i, batch in enumerate(batches):
        optimizer.zero_grad()
        if around: 
            with around(): value = backward(model, batch)
        else: value = backward(model, batch)
        out.append((value.detach().clone(), [None if p.grad is None else p.grad.detach().clone() for p in model.parameters()]))
        optimizer.step()
    out.append([p.detach().clone() for p in model.parameters()] + [b.detach().clone() for b in model.buffers()])

def run(name, make, memory=0.6, opt=lambda m: torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.01), around=None, make_lean=None, peak=True):
    res = {"case": name}
    try:
        seed(0); model, batches, loss = make()
    except Exception as e:
        print(f"{name} | BUILD FAILED {type(e).__name__}: {str(e)[:150]}", flush=True); return
    try:
        twin = copy.deepcopy(model)
    except Exception as e:
        seed(0); twin = make()[0]
    a, b = [], []
    def plain(m, batch):
        v = loss(m, batch); v.backward(); return v.detach()
    seed(1)
    try:
        loop(model, copy.deepcopy(batches), loss, opt, plain, a, around)
    except Exception as e:
        print(f"{name} | EAGER FAILED {type(e).__name__}: {str(e)[:150]}", flush=True); return
    ra = torch.get_rng_state()
    seed(1)
    t0 = time.perf_counter()
    stage = "plan"
    try:
        lean = LeanBackward(twin, loss, memory)
        times = []
        def by(m, batch):
            t = time.perf_counter(); v = lean(batch); times.append(time.perf_counter() - t); return v
        loop(twin, copy.deepcopy(batches), loss, opt, by, b, around)
    except LabtrailError as e:
        if "are not reached" in str(e) and memory < .9:
            print(f"   ({name}: {memory}: {str(e)[:200]}; {time.perf_counter()-t0:.1f}s)", flush=True)
            return run(name, make, round(memory+.15,2), opt, around, make_lean, peak)
        print(f"{name} | REFUSED {type(e).__name__} after {time.perf_counter()-t0:.1f}s: {str(e)[:330]}", flush=True); return
    except Exception as e:
        tb = traceback.extract_tb(e.__traceback__)
        own = [f for f in tb if "labtrail" in f.filename][-1:]
        print(f"{name} | TRACEBACK {type(e).__name__}: {str(e).strip().splitlines()[0][:200] if str(e).strip() else ''} @ {own[0].filename.split('/')[-1] if own else ''}:{own[0].lineno if own else ''}", flush=True)
        if os.environ.get("TB"): traceback.print_exc()
        return
    rb = torch.get_rng_state()
    bad = []
    names = [n for n, _ in model.named_parameters()]
    for i in range(len(batches)):
        if not same(a[i][0], b[i][0]): bad.append(f"loss@{i} {a[i][0].item():.7g}!={b[i][0].item():.7g}")
        d = [n for n, x, y in zip(names, a[i][1], b[i][1]) if not same(x, y)]
        if d: bad.append(f"grad@{i} {len(d)}/{len(names)} e.g. {d[0]}")
    d = [i for i, (x, y) in enumerate(zip(a[-1], b[-1])) if not same(x, y)]
    if d: bad.append(f"params/buffers {len(d)}/{len(a[-1])}")
    if not torch.equal(ra, rb): bad.append("rng state")
    note = ""
    for planned in list(lean._planned.values())[:1]:
        traced = planned.traced
        note += f"nodes {len(traced.graph.nodes)} plans {len(lean._planned)} "
        if peak:
            try:
                batch = copy.deepcopy(batches[-1])
                twin.zero_grad()
                st = TrainingStep(twin, lean._optimizer, batch, None)
                held = held_by(st.tensors())
                pl = peak_of(lambda: lean(batch), held, torch.device("cpu"))
                twin.zero_grad()
                pe = peak_of(lambda: plain(twin, batch), held, torch.device("cpu"))
                pr = peak_of_graph(traced, costs_of(traced, np.zeros(len(traced.graph.nodes))))
                note += f"peak eager {pe:,} lean {pl:,} ({pl/pe:.2f}) predicted {pr:,} ({pr/pl-1:+.2%}) "
            except Exception as e:
                note += f"peak: {type(e).__name__} {str(e)[:80]} "
    note += f"first {times[0]:.1f}s later {min(times[1:]) if len(times)>1 else 0:.3f}s"
    print(f"{name}@{memory} | {'WRONG BITS ' + '; '.join(bad[:4]) if bad else 'works, bits equal'} | {note}", flush=True)

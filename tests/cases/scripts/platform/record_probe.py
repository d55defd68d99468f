import numpy as np, torch, pandas as pd, io
from labtrail.figures import *  # noqa
try:
    from labtrail.figures import encode
except ImportError:
    from labtrail.files import encode
from PIL import Image
for name, v in {"a.png": Image.new("RGB", (4, 4)), "b.npy": np.zeros(3), "c.json": {"a": 1}, "d.json": [1, 2], "e.pt": torch.zeros(2), "f.txt": "x", "g.bin": b"x", "h.csv": pd.DataFrame({"a": [1]}), "i.txt": io.BytesIO(b"x"), "../evil.txt": "x", "k.jpg": __import__("matplotlib.figure").figure.Figure()}.items():
    try:
        print(name, type(v).__name__, "->", len(encode(name, v)), "bytes")
    except Exception as e:
        print(name, type(v).__name__, "->", type(e).__name__, str(e)[:120])
from labtrail.running.writer import checked
for v in (torch.tensor(0.5), np.float32(0.5), np.int64(3), True, float("nan"), np.array(0.5), "0.5"):
    try: print(repr(v), checked({"x": v}))
    except Exception as e: print(repr(v), type(e).__name__, e)

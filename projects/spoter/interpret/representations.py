"""What the layers represent, and how alike they are across layers and epochs (debiased CKA)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control
from torch import Tensor

from labtrail.statistics import cka_jackknife, cka_test
from projects.spoter.batches import Inputs, passes
from projects.spoter.model import Spoter


@torch.inference_mode()
def layer_outputs(model: Spoter, inputs: Inputs, max_frames: int) -> dict[str, np.ndarray]:
    """The output of every layer, one vector a clip: ``enc_0`` .. ``dec_5`` -> (clips, 108), float64.

    An encoder layer's frames are averaged over the clip (the network sees a set); a decoder layer has one query.
    """
    outputs: dict[str, Tensor] = {}
    count = len(inputs.lengths)
    stacks = {"enc": model.transformer.encoder.layers, "dec": model.transformer.decoder.layers}
    layers = {f"{kind}_{index}": layer for kind, stack in stacks.items() for index, layer in enumerate(stack)}
    seen: dict[str, Tensor] = {}

    def note(name: str):
        return lambda _module, _arguments, output: seen.__setitem__(name, output)

    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        for batch in passes(inputs, max_frames):
            model(batch.frames, batch.layout)
            lengths = torch.from_numpy(inputs.lengths[batch.clips])
            for name, output in seen.items():
                pooled = name.startswith("enc")
                rows = batch.layout.pad(output).sum(1).cpu() / lengths[:, None] if pooled else output.cpu()
                target = outputs.setdefault(name, torch.empty(count, rows.shape[-1], dtype=torch.float64))
                target[torch.from_numpy(batch.clips)] = rows.double()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: output.numpy() for name, output in outputs.items()}


def cka_table(outputs: Mapping[int, Mapping[str, np.ndarray]], permutations: int, seed: int) -> pd.DataFrame:
    """Debiased CKA of each layer with itself at other epochs, and of all layers with each other at the last epoch.

    Args:
        outputs: epoch -> layer -> (clips, width), epochs ascending.
        permutations: of the clips, for the null of no relation.
        seed: of the permutations.

    Returns:
        Columns layer_a, epoch_a, layer_b, epoch_b, cka, low, high (jackknife over clips), p, q (Benjamini &
        Hochberg 1995, over the table).
    """
    epochs = list(outputs)
    last = outputs[epochs[-1]]
    pairs = [(name, a, name, b) for name in last for i, a in enumerate(epochs) for b in epochs[i + 1 :]]
    names = list(last)
    pairs += [
        (layer, epochs[-1], later_layer, epochs[-1]) for i, layer in enumerate(names) for later_layer in names[i + 1 :]
    ]
    rows = []
    for layer_a, epoch_a, layer_b, epoch_b in pairs:
        outputs_a, outputs_b = outputs[epoch_a][layer_a], outputs[epoch_b][layer_b]
        value, low, high = map(float, cka_jackknife(outputs_a, outputs_b))
        _, p = cka_test(outputs_a, outputs_b, permutations, seed)
        rows.append((layer_a, epoch_a, layer_b, epoch_b, value, low, high, p))
    columns = ["layer_a", "epoch_a", "layer_b", "epoch_b", "cka", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    tested = table["p"].notna()
    table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"]) if tested.any() else np.nan
    return table

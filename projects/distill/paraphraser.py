"""The first stage of factor transfer: a paraphraser learns to reconstruct the teacher's features, by itself.

It depends on teacher, images, seed and a few settings, and on nothing of the student; whoever needs it first trains
it, and students that start meanwhile wait. Trained again, it would come out the same to the bit.

Why: docs/decisions/019-paraphraser-is-cached.md
"""

from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save
from torch.optim import SGD
from tqdm import tqdm

import labtrail as lt
from labtrail.running.seeding import generator_states, set_generator_states
from projects.distill.adapters import Paraphraser
from projects.distill.config import DistillConfig
from projects.distill.data import DeviceImages, load_images
from projects.distill.losses import reconstruction_loss
from projects.distill.teacher import Teacher

_FOLDER = Path("data/cache/distill")
# The authors' recipe: SGD of 0.1 with momentum 0.9, weight decay 5e-4.
_RATE, _MOMENTUM, _DECAY = 0.1, 0.9, 5e-4


def trained_paraphraser(config: DistillConfig, teacher: Teacher, factors: int, images: DeviceImages) -> Paraphraser:
    """The paraphraser of a teacher's last stage, from the cache or trained into it.

    Args:
        config: of the run that needs it.
        teacher: frozen.
        factors: number of factors.
        images: the training images.
    """
    path = _FOLDER / f"paraphraser-{_key(config, factors, images.labels.device)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Paraphraser(teacher.widths[2], factors)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            lt.write_atomically(path, save(_train(made, config, teacher, images)))
    made.load_state_dict(load_file(path))
    return made.requires_grad_(False)


def _key(config: DistillConfig, factors: int, device: torch.device) -> str:
    loss, train = config.loss, config.train
    settings = [loss.paraphraser_epochs, train.batch_size, train.channels_last, train.fused_teacher, factors]
    recipe = [_RATE, _MOMENTUM, _DECAY, device.type, lt.code_fingerprint(_train)]
    digests = load_images(config.data).digests
    return lt.fingerprint(config.teacher_sha256, digests["train"], config.seed, settings, config.compute, recipe)


def _train(
    model: Paraphraser, config: DistillConfig, teacher: Teacher, images: DeviceImages
) -> dict[str, torch.Tensor]:
    before = generator_states()
    lt.reseed(config.seed, 1)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.reset_parameters()
    device = images.labels.device
    model.to(device)
    optimizer = SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
    epochs, size = config.loss.paraphraser_epochs, config.train.batch_size
    for epoch in tqdm(range(epochs), desc="paraphraser", unit="epoch", leave=False, disable=None):
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        for index in torch.randperm(len(images), generator=generator).split(size):
            with torch.no_grad():
                features = teacher.model(images.augmented(index, generator)).stages[2]
            loss = reconstruction_loss(model.reconstruct(features), features)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    set_generator_states(before)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}

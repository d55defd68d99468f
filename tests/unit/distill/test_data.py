"""Archives that cannot be trusted, splits that keep classes, batches equal to per-image transforms."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from labtrail.errors import DataError
from projects.distill.archives import Raw, read_cifar, read_svhn
from projects.distill.config import DataConfig
from projects.distill.data import DeviceImages, Images, _held_out, load_images
from projects.distill.tinyimagenet import read_tinyimagenet

CPU = torch.device("cpu")


def batch(count: int = 20, classes: int = 10, **changes: Any) -> dict[bytes, Any]:
    generator = np.random.default_rng(count)
    images = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    key = b"labels" if classes == 10 else b"fine_labels"
    found: dict[bytes, Any] = {b"data": images, key: [index % classes for index in range(count)]}
    return found | {name.encode(): value for name, value in changes.items()}


def archive(path: Path, **members: Any) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, value in members.items():
            content = value if isinstance(value, bytes) else pickle.dumps(value, protocol=2)
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def test_both_official_layouts_are_read(tmp_path: Path) -> None:
    ten = archive(tmp_path / "10.tar.gz", a__data_batch_1=batch(20), a__data_batch_2=batch(30), a__test_batch=batch(10))
    train, test = read_cifar(ten, 10)
    assert (train.images.shape, test.images.shape) == ((50, 3, 32, 32), (10, 3, 32, 32))
    np.testing.assert_array_equal(train.images[0].ravel(), batch(20)[b"data"][0])
    hundred = archive(tmp_path / "100.tar.gz", a__train=batch(200, 100), a__test=batch(100, 100))
    train, _ = read_cifar(hundred, 100)
    assert train.labels.max() == 99


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("never",)


BAD = {
    "damaged": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "found it damaged"),
    "no archive": (lambda path: path.write_bytes(b"hello"), "found it damaged"),
    "no batches": (lambda path: archive(path, a__readme=b"x"), "expected data_batch_1 .. 5 and test_batch"),
    "a label too many": (
        lambda path: archive(path, a__data_batch_1=batch(20, labels=[0] * 21), a__test_batch=batch(10)),
        "expected a label for each of 20 images, found 21",
    ),
    "a wrong label": (
        lambda path: archive(path, a__data_batch_1=batch(20, labels=[0] * 19 + [10]), a__test_batch=batch(10)),
        "image 19: expected a label from 0 to 9, found 10",
    ),
    "no images": (
        lambda path: archive(
            path, a__data_batch_1=batch(20, data=np.zeros((20, 9), np.uint8)), a__test_batch=batch(10)
        ),
        r"expected images of 3072 bytes, found \(20, 9\)",
    ),
    "code in a pickle": (
        lambda path: archive(path, a__data_batch_1=Evil(), a__test_batch=batch(10)),
        "asks for (builtins|__builtin__).print, which no image archive needs",
    ),
    "a way out": (lambda path: archive(path, **{"..__data_batch_1": batch()}), "expected names inside the archive"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_archives_are_refused_by_name(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive(tmp_path / "cifar.tar.gz", a__data_batch_1=batch(), a__test_batch=batch(10))
    make, message = BAD[kind]
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar(path, 10)
    assert str(path) in str(caught.value)
    assert "never" not in capsys.readouterr().out


def test_a_missing_archive_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing there; fetch it first"):
        load_images(DataConfig(name="cifar10", folder=tmp_path))


def test_trailing_damage_is_noticed_by_the_checksum(tmp_path: Path) -> None:
    path = archive(tmp_path / "cifar.tar.gz", a__data_batch_1=batch(), a__test_batch=batch(10))
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises((DataError, gzip.BadGzipFile), match="damaged"):
        read_cifar(path, 10)


def test_svhn_calls_ten_zero(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    for part in ("train", "test"):
        savemat(
            tmp_path / f"{part}_32x32.mat",
            {"X": images, "y": np.arange(1, 13)[:, None] % 10 + (np.arange(12)[:, None] == 9) * 10},
        )
    train, _ = read_svhn(tmp_path)
    assert train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    np.testing.assert_array_equal(train.images[3], images[:, :, :, 3].transpose(2, 0, 1))
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": np.full((12, 1), 11)})
    with pytest.raises(DataError, match="image 0: expected a label from 0 to 9, found 11"):
        read_svhn(tmp_path)


def tiny(folder: Path, side: int = 64) -> Path:
    root = folder / "tiny-imagenet-200"
    ids = ["n01", "n02"]
    (root / "val/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(ids) + "\n")
    lines = []
    for place, one in enumerate(ids):
        (root / f"train/{one}/images").mkdir(parents=True)
        image = Image.fromarray(np.full((side, side, 3), 60 * place + 40, np.uint8))
        image.save(root / f"train/{one}/images/{one}_0.JPEG")
        # One picture in grey, as the real ones are here and there.
        image.convert("L").save(root / f"val/images/val_{place}.JPEG")
        lines.append(f"val_{place}.JPEG\t{one}\t0\t0\t9\t9")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tinyimagenet_is_read_from_folder_and_zip_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tiny(tmp_path / "plain")
    train, test = read_tinyimagenet(tmp_path / "plain")
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]
    assert abs(int(train.images[1].mean()) - 100) <= 1
    packed = tmp_path / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / "tiny-imagenet-200.zip", "w") as file:
        for path in root.rglob("*"):
            if path.is_file():
                file.write(path, f"tiny-imagenet-200/{path.relative_to(root)}")
    for one, other in zip((train, test), read_tinyimagenet(packed), strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    # A second reading comes from the cache, without decoding.
    monkeypatch.setattr(Image, "open", None)
    np.testing.assert_array_equal(read_tinyimagenet(packed)[0].images, train.images)


def test_bad_tinyimagenet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="found neither; fetch it first"):
        read_tinyimagenet(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"n01_0.JPEG: expected 64 x 64 pixels, found \(32, 32\)"):
        read_tinyimagenet(tiny(tmp_path / "small", 32).parent)
    root = tiny(tmp_path / "cut")
    (root / "train/n02/images/n02_0.JPEG").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(DataError, match=r"n02_0\.JPEG: expected a JPEG image, found it unreadable"):
        read_tinyimagenet(root)


def test_a_share_of_every_class_is_held_out_by_the_seed_alone() -> None:
    labels = np.repeat([0, 1, 2], [10, 100, 37])
    mask = _held_out(labels, 0.1, 3)
    assert [int(mask[labels == one].sum()) for one in range(3)] == [1, 10, 4]
    np.testing.assert_array_equal(mask, _held_out(labels, 0.1, 3))
    assert (mask != _held_out(labels, 0.1, 4)).any()
    images = load_images(DataConfig())
    assert len(images.train.labels) + len(images.validation.labels) + len(images.test.labels) == 1797
    assert len(set(images.digests.values())) == 3


def small(flip: bool) -> tuple[DeviceImages, Images]:
    generator = np.random.default_rng(0)
    raw = Raw(generator.integers(0, 256, (6, 3, 16, 16), dtype=np.uint8), np.arange(6))
    images = Images(raw, raw, raw, 6, flip, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    return DeviceImages(raw, images, CPU), images


def test_a_batch_equals_the_transforms_of_each_image() -> None:
    resident, images = small(flip=True)
    index = torch.tensor([4, 0, 0, 5])
    found = resident.augmented(index, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    shift = torch.randint(5, (2, 4), generator=generator)
    mirrored = torch.rand(4, generator=generator) < 0.5
    assert mirrored.any()
    assert not mirrored.all()
    for place, one in enumerate(index):
        padded = np.pad(images.train.images[one], ((0, 0), (2, 2), (2, 2)))
        top, left = shift[:, place].tolist()
        cropped = padded[:, top : top + 16, left : left + 16]
        cropped = cropped[:, :, ::-1] if mirrored[place] else cropped
        expected = (cropped / 255 - np.array(images.mean)[:, None, None]) / np.array(images.deviation)[:, None, None]
        np.testing.assert_allclose(found[place].numpy(), expected, atol=1e-5)
    plain = resident.normalized(torch.tensor([2]))[0]
    expected = (images.train.images[2] / 255 - np.array(images.mean)[:, None, None]) / np.array(images.deviation)[
        :, None, None
    ]
    np.testing.assert_allclose(plain.numpy(), expected, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_digits_are_never_mirrored() -> None:
    resident, images = small(flip=False)
    assert not load_images(DataConfig()).flip
    index = torch.zeros(64, dtype=torch.int64)
    found = resident.augmented(index, torch.Generator().manual_seed(0))
    plain = resident.normalized(index[:1])[0]
    centred = [one for one in found if torch.equal(one, plain)]
    mirrored = [one for one in found if torch.equal(one, plain.flip(2))]
    assert centred
    assert not mirrored
    assert images.classes == 6

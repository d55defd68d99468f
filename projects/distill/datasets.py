"""The image archives, for ``fetch``."""

from pathlib import Path

import labtrail as lt
from projects.distill.archives import read_cifar, read_mat
from projects.distill.tinyimagenet import check_archive

_CIFAR = "https://www.cs.toronto.edu/~kriz"
_SVHN = "https://ufldl.stanford.edu/housenumbers"


def _cifar(classes: int) -> lt.DataSet:
    name = f"cifar-{classes}-python.tar.gz"

    def check(path: Path) -> None:
        read_cifar(path, classes)

    return lt.DataSet(
        name=f"cifar{classes}",
        assets=(lt.Asset(name, name, f"{_CIFAR}/{name}"),),
        licence="no stated licence; cite Krizhevsky 2009",
        check=check,
    )


def _check_mat(path: Path) -> None:
    read_mat(path)


def _check_zip(path: Path) -> None:
    if not check_archive(path):
        raise lt.DataError(f"{path}: expected tiny-imagenet-200/wnids.txt in a whole zip archive, found none")


SVHN = lt.DataSet(
    name="svhn",
    assets=tuple(lt.Asset(name, name, f"{_SVHN}/{name}") for name in ("train_32x32.mat", "test_32x32.mat")),
    licence="for non-commercial use; cite Netzer et al. 2011",
    check=_check_mat,
)
TINYIMAGENET = lt.DataSet(
    name="tinyimagenet",
    assets=(
        lt.Asset("tiny-imagenet-200.zip", "tiny-imagenet-200.zip", "https://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    ),
    licence="ImageNet's terms of access: research and education, non-commercial",
    check=_check_zip,
)
DATASETS = (_cifar(10), _cifar(100), SVHN, TINYIMAGENET)

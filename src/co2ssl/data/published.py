"""The view recipes of the papers, each with its source: operations and values as published, in the published order."""

from __future__ import annotations

from dataclasses import replace

from co2ssl.data.lab import lab_views
from co2ssl.data.operations import (
    ColorJitter,
    GaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomOperation,
    RandomResizedCrop,
)
from co2ssl.data.patches import (
    GridPatch,
    RandomCrop,
    RandomWindow,
    ResizeShortSide,
    ResizeSquare,
    standardised_views,
)
from co2ssl.data.photometric import RandomMeanGrey, RandomPhotometric
from co2ssl.data.recipe import ViewRecipe
from co2ssl.data.rotations import rotated_views

# Published image size, and the one small forms have unless told otherwise (CIFAR's).
IMAGE_SIZE = 224
SMALL_IMAGE_SIZE = 32

Operations = tuple[RandomOperation, ...]


def moco_v1(size: int) -> Operations:
    """MoCo v1 (He et al. 2020), facebookresearch/moco main_moco.py without --aug-plus.

    The same as InsDisc (Wu et al. 2018), zhirongw/lemniscate.pytorch main.py, where it comes from.
    """
    return (
        RandomResizedCrop(size=size, min_area=0.2),
        RandomGrayscale(probability=0.2),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
        RandomHorizontalFlip(),
    )


def moco_v2(size: int) -> Operations:
    """MoCo v2 (Chen et al. 2020), facebookresearch/moco main_moco.py with --aug-plus."""
    return (
        RandomResizedCrop(size=size, min_area=0.2),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
        RandomGrayscale(probability=0.2),
        GaussianBlur(min_sigma=0.1, max_sigma=2.0, probability=0.5),
        RandomHorizontalFlip(),
    )


def simclr(size: int) -> Operations:
    """SimCLR (Chen et al. 2020), appendix A, colour strength 1; google-research/simclr data_util.py."""
    return (
        RandomResizedCrop(size=size, min_area=0.08),
        RandomHorizontalFlip(),
        ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8),
        RandomGrayscale(probability=0.2),
        GaussianBlur(min_sigma=0.1, max_sigma=2.0, probability=0.5, kernel_share=0.1),
    )


def simclr_cifar(size: int) -> Operations:
    """SimCLR on CIFAR-10, appendix B.9: colour strength 0.5 and no blur."""
    return (
        RandomResizedCrop(size=size, min_area=0.08),
        RandomHorizontalFlip(),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
        RandomGrayscale(probability=0.2),
    )


def crop_and_flip(size: int) -> Operations:
    """CMC (Tian et al. 2019), HobbitLong/CMC train_CMC.py; Rotation on ResNet-50, facebookresearch/vissl rotnet."""
    return (RandomResizedCrop(size=size, min_area=0.08), RandomHorizontalFlip())


def jigsaw() -> ViewRecipe:
    """Jigsaw (Noroozi and Favaro 2016) as Goyal et al. (2019) train it, facebookresearch/vissl jigsaw_8gpu_resnet.yaml.

    Nine patches in the order of the grid, row by row; the method puts them into one of its permutations.
    """
    return ViewRecipe(
        name="jigsaw",
        image_size=64,
        shared=(
            ResizeShortSide(size=256),
            RandomHorizontalFlip(),
            RandomCrop(size=255),
            RandomGrayscale(probability=0.66),
        ),
        operations=(GridPatch(grid=3, stride=85, size=64, positions=21),),
        num_views=9,
    )


def relative_position() -> ViewRecipe:
    """Relative position (Doersch et al. 2015) as Kolesnikov et al. (2019) train it.

    google/revisiting-self-supervised config/relative_patch_location/imagenet.sh: nine patches, each standardised by
    itself; :func:`co2ssl.data.patches.relative_positions` pairs them. Resized with antialiasing (ours).
    """
    return ViewRecipe(
        name="relative-position",
        image_size=64,
        shared=(ResizeSquare(size=292), RandomMeanGrey(probability=0.66), RandomCrop(size=255)),
        operations=(GridPatch(grid=3, stride=85, size=64, positions=22),),
        num_views=9,
        split=standardised_views,
    )


def cpc_v2() -> ViewRecipe:
    """CPC v2 (Hénaff et al. 2019) as wilson1yan/cs294-158-ssl has it: 7 x 7 patches of 64 pixels, half overlapping.

    Of each patch a random 60 x 60 window is kept. Colour is kept (that repository's is grey); the paper's colour
    dropping and its AutoAugment and elastic transforms of patches, known from quotations only, are not here.
    """
    return ViewRecipe(
        name="cpc-v2",
        image_size=64,
        shared=crop_and_flip(256),
        operations=(GridPatch(grid=7, stride=32, size=64), RandomWindow(size=60)),
        num_views=49,
    )


def pirl() -> ViewRecipe:
    """PIRL (Misra and van der Maaten 2020), facebookresearch/vissl pirl_jigsaw_4node_resnet.yaml.

    The image, then nine patches of another crop of it, each with colours of its own; in the order of the grid, which
    the method shuffles with :func:`co2ssl.data.patches.patch_orders`.
    """
    colours: Operations = (
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
        RandomPhotometric(probability=0.66),
        RandomGrayscale(probability=0.2),
        RandomHorizontalFlip(),
    )
    patches = ViewRecipe(
        name="pirl-patches",
        image_size=64,
        shared=(RandomResizedCrop(size=255, min_area=0.6),),
        operations=(GridPatch(grid=3, stride=85, size=64, positions=21), *colours),
        num_views=9,
    )
    image: Operations = (RandomResizedCrop(size=IMAGE_SIZE, min_area=0.08), *colours)
    return ViewRecipe(name="pirl", image_size=IMAGE_SIZE, operations=image, num_views=10, more=patches)


def _without(kind: type, operations: Operations) -> Operations:
    return tuple(operation for operation in operations if not isinstance(operation, kind))


def _recipe(name: str, size: int, operations: Operations) -> ViewRecipe:
    return ViewRecipe(name=name, image_size=size, operations=operations)


# The published recipes, and small forms (32 to 96 px) without blur. moco-v1-small and moco-v2-small are ours: the
# papers have no small images. simclr-small is SimCLR's own for CIFAR-10, and insdisc-small InsDisc's (cifar.py: no
# flip). InsDisc, CMC and Rotation take one crop of an image; CMC splits it by colour, Rotation turns it.
VIEW_RECIPES: dict[str, ViewRecipe] = {
    recipe.name: recipe
    for recipe in (
        _recipe("moco-v1", IMAGE_SIZE, moco_v1(IMAGE_SIZE)),
        _recipe("moco-v2", IMAGE_SIZE, moco_v2(IMAGE_SIZE)),
        _recipe("simclr", IMAGE_SIZE, simclr(IMAGE_SIZE)),
        _recipe("moco-v1-small", SMALL_IMAGE_SIZE, moco_v1(SMALL_IMAGE_SIZE)),
        _recipe("moco-v2-small", SMALL_IMAGE_SIZE, _without(GaussianBlur, moco_v2(SMALL_IMAGE_SIZE))),
        _recipe("simclr-small", SMALL_IMAGE_SIZE, simclr_cifar(SMALL_IMAGE_SIZE)),
        replace(_recipe("insdisc", IMAGE_SIZE, moco_v1(IMAGE_SIZE)), num_views=1),
        replace(
            _recipe("insdisc-small", SMALL_IMAGE_SIZE, _without(RandomHorizontalFlip, moco_v1(SMALL_IMAGE_SIZE))),
            num_views=1,
        ),
        replace(_recipe("cmc", IMAGE_SIZE, crop_and_flip(IMAGE_SIZE)), num_views=1, split=lab_views),
        replace(_recipe("rotation", IMAGE_SIZE, crop_and_flip(IMAGE_SIZE)), num_views=1, split=rotated_views),
        jigsaw(),
        relative_position(),
        cpc_v2(),
        pirl(),
    )
}

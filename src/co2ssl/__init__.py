"""co2ssl: visual representations from unlabelled images, by consistent contrast (CO2, ICLR 2021).

    import co2ssl

    run = co2ssl.pretrain("photos/", out="runs/photos")
    backbone = co2ssl.load_encoder(run.folder)        # a torch module with torchvision's key names

    from co2ssl import Contrast, contrastive_loss     # one loss in a loop of your own

Names are loaded when they are first used, so that ``import co2ssl`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from co2ssl.lazy import lazily
from co2ssl.version import __version__

if TYPE_CHECKING:
    from co2ssl.api import doctor as doctor
    from co2ssl.api import load_encoder as load_encoder
    from co2ssl.api import pretrain as pretrain
    from co2ssl.losses import Contrast as Contrast
    from co2ssl.losses import consistency as consistency
    from co2ssl.losses import contrastive_loss as contrastive_loss
    from co2ssl.losses import info_nce as info_nce

_HOMES = {
    "Contrast": "co2ssl.losses",
    "consistency": "co2ssl.losses",
    "contrastive_loss": "co2ssl.losses",
    "doctor": "co2ssl.api",
    "info_nce": "co2ssl.losses",
    "load_encoder": "co2ssl.api",
    "pretrain": "co2ssl.api",
}

__all__ = [
    "Contrast",
    "__version__",
    "consistency",
    "contrastive_loss",
    "doctor",
    "info_nce",
    "load_encoder",
    "pretrain",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)

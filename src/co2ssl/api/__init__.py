"""What the command line calls, and what ``import co2ssl`` offers: pretrain, evaluate, load_encoder, doctor, demo.

Each is loaded when it is first used: a training run waits for nothing that only a protocol needs, such as scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from co2ssl.lazy import lazily

if TYPE_CHECKING:
    from co2ssl.api.demonstration import demo as demo
    from co2ssl.api.diagnosis.doctor import doctor as doctor
    from co2ssl.api.diagnosis.result import Diagnosis as Diagnosis
    from co2ssl.api.evaluation import evaluate as evaluate
    from co2ssl.api.pretraining import pretrain as pretrain
    from co2ssl.api.runs import Run as Run
    from co2ssl.api.runs import load_encoder as load_encoder
    from co2ssl.api.runs import read_run as read_run

_HOMES = {
    "Diagnosis": "co2ssl.api.diagnosis",
    "Run": "co2ssl.api.runs",
    "demo": "co2ssl.api.demonstration",
    "doctor": "co2ssl.api.diagnosis",
    "evaluate": "co2ssl.api.evaluation",
    "load_encoder": "co2ssl.api.runs",
    "pretrain": "co2ssl.api.pretraining",
    "read_run": "co2ssl.api.runs",
}

__all__ = ["Diagnosis", "Run", "demo", "doctor", "evaluate", "load_encoder", "pretrain", "read_run"]

__getattr__, __dir__ = lazily(__name__, _HOMES)

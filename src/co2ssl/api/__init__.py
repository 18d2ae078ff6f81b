"""What the command line calls, and what ``import co2ssl`` offers: pretrain, evaluate, load_encoder, doctor, demo."""

from co2ssl.api.demonstration import demo
from co2ssl.api.diagnosis import Diagnosis, doctor
from co2ssl.api.evaluation import evaluate
from co2ssl.api.pretraining import pretrain
from co2ssl.api.runs import Run, load_encoder, read_run

__all__ = ["Diagnosis", "Run", "demo", "doctor", "evaluate", "load_encoder", "pretrain", "read_run"]

"""``doctor``: what the images are like, how fast a recipe would run on them here, and what to change."""

from co2ssl.api.diagnosis.doctor import doctor
from co2ssl.api.diagnosis.result import Diagnosis
from co2ssl.api.diagnosis.words import in_words

__all__ = ["Diagnosis", "doctor", "in_words"]

"""What a representation is worth: features, and the protocols that read them.

A protocol has a line here, its options in :mod:`co2ssl.evaluate.options`, its arithmetic in a module of this room, and
a place in the table of :mod:`co2ssl.api.protocols`. ``all`` runs the others (:mod:`co2ssl.api.everything`).
"""

PROTOCOLS = {
    "knn": "weighted vote of the nearest training images, on frozen features",
    "linear": "linear classifier on the frozen backbone, as the paper trains it; --fast: by L-BFGS on cached features",
    "svm": "VOC07 classification: one linear SVM per class on frozen features, mean average precision",
    "finetune": "the whole network fine-tuned on the labels of few images, as the paper does with 1 % and 10 %",
    "supervised": "what it is compared with: the same architecture trained from fresh weights on labels",
    "all": "every protocol that the images permit: one table, the papers' numbers beside it, and one JSON",
}
"""Every protocol that ``co2ssl evaluate`` knows, with what it does."""

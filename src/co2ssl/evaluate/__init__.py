"""What a representation is worth: features, and the protocols that read them."""

PROTOCOLS = {
    "knn": "weighted vote of the nearest training images, on frozen features",
    "linear": "logistic regression on frozen features, its penalty chosen on a tenth of the training images",
}
"""Every protocol that ``co2ssl evaluate`` knows, with what it does."""

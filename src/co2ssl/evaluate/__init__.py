"""What a representation is worth: features, and the protocols that read them."""

"""Small models of handwritten digits in pixel space: the network, and the family that it belongs to."""

"""Image to parameters: the networks that look at a face crop."""

"""Preparing data: checking, degrading, cropping, pairing, and the published archives, each a file of its own."""

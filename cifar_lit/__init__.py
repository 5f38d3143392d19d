"""CIFAR-10 classification as a whole life cycle: train, measure, version, serve, learn from new data."""

__version__ = "0.1.0"

"""Vogeler: a configuration database for a fleet, filled through a message queue."""

__version__ = "0.1.0"

"""stackctl: a real mail system for development and tests, with one command."""

__version__ = "0.1.0"

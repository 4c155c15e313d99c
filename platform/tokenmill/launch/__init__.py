"""Launching training workers through torchx, watching them, and starting them again where steps are to be left out."""

from tokenmill.launch.training import launch_training

__all__ = ["launch_training"]

"""Launching training workers through torchx: local processes, Volcano; adopted where a live job with the key is found."""

from tokenmill.launch.training import launch_training

__all__ = ["launch_training"]

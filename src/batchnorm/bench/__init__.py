"""Measure the layers on this machine against torch's, torch.compile's and the physical limit."""

__all__: list[str] = []

"""Experiments on real data: what they train on, what they train, and how. Needs the extra `lab`."""

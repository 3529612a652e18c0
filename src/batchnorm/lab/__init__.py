"""Experiments on real data: what they train on, what they train, and how. Needs the extra `lab`.

From Python: `batchnorm.lab.config.CompareConfig` holds the settings, `batchnorm.lab.compare.prepare` checks them
against data and model, and `batchnorm.lab.compare.compare` does the runs.
"""

__all__: list[str] = []

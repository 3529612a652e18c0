"""Networks of a comparison: four built in, or the user's own, each with a norm layer of choice at its sites."""

from batchnorm.lab.models.build import KNOWN, brings_its_own_norms, build
from batchnorm.lab.models.network import Network

__all__ = ["KNOWN", "Network", "brings_its_own_norms", "build"]

"""Change the layers of a model that exists: put batch norm in, or exchange it for another layer and back."""

from batchnorm.surgery.convert import convert, convert_
from batchnorm.surgery.insert import insert, insert_

__all__ = ["convert", "convert_", "insert", "insert_"]

"""Work on the layers of a model that exists: put batch norm in, exchange it, measure its statistics or hold them."""

from batchnorm.surgery.convert import convert, convert_
from batchnorm.surgery.insert import insert, insert_
from batchnorm.surgery.no_stats_update import no_stats_update
from batchnorm.surgery.recalibrate import recalibrate, recalibrate_

__all__ = ["convert", "convert_", "insert", "insert_", "no_stats_update", "recalibrate", "recalibrate_"]

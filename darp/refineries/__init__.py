"""What refines pseudo-labels: one file each.

`darp`, `align` and `sinkhorn` refine a whole table, when `darp.refiner.Refiner` asks them to. The others follow the
training batch by batch. A new one of these is a file beside them, a line in the table, its name in
`semi.config.REFINEMENTS`, and its parameters there as flags NAME_PARAMETER.
"""

from darp.refineries.base import Batchwise
from darp.refineries.debias import DebiasPL
from darp.refineries.flexda import FlexDA
from darp.refineries.la import LogitAdjustment
from darp.refineries.pda import ProgressiveAlignment
from darp.refineries.simpro import SimPro

BATCHWISE: dict[str, type[Batchwise]] = {
    "la": LogitAdjustment,
    "debias": DebiasPL,
    "pda": ProgressiveAlignment,
    "flexda": FlexDA,
    "simpro": SimPro,
}

"""What refines pseudo-labels: one file each.

`darp`, `align` and `sinkhorn` refine a whole table, when `darp.refiner.Refiner` asks them to. The others follow the
training batch by batch (`darp.refineries.base.Batchwise`). docs/extending.md says what a new one of these takes.
"""

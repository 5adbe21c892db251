"""How the refinement is solved fast: the steps on the dual, and the passes over the table on a CPU and on a device."""

"""What refines a table of pseudo-labels: one file each, all called alike."""

"""Beyond memory and beyond one machine: operators on the arrays of other engines, block by block."""

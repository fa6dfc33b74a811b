"""Not-so-Clevr: the coordinate tasks of Liu et al. 2018, sections 3 and 4."""

"""Programs: the text of one, and the loops in it as kernels are told them."""

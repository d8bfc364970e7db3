"""The table: every primitive with its derivative, its public function and its operators.

elementwise, reduction, movement, contraction, indexing; and creation, where Tensors come from.
"""

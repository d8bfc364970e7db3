"""The experiments, in the order of the table."""

from . import adding, min_char_rnn, reber, temporal_order

PAGES = {module.PAGE.name: module.PAGE for module in (min_char_rnn, adding, temporal_order, reber)}

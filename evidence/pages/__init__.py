"""The experiments, in the order of the table."""

from . import (
    adding,
    copy_memory,
    forget_bias,
    languages,
    min_char_rnn,
    parity,
    reber,
    rwa,
    spectra,
    temporal_order,
    two_sequences,
)

ORDER = (
    min_char_rnn,
    spectra,
    adding,
    temporal_order,
    two_sequences,
    reber,
    languages,
    parity,
    copy_memory,
    forget_bias,
    rwa,
)
PAGES = {module.PAGE.name: module.PAGE for module in ORDER}

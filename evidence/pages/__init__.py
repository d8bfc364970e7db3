"""The experiments, in the order of the table."""

from . import (
    adding,
    attention,
    chorales,
    clipping,
    copy_memory,
    digits,
    forget_bias,
    languages,
    min_char_rnn,
    online,
    parity,
    reber,
    rwa,
    scheduled_sampling,
    spectra,
    temporal_order,
    two_sequences,
    variants,
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
    clipping,
    rwa,
    digits,
    chorales,
    variants,
    attention,
    scheduled_sampling,
    online,
)
PAGES = {module.PAGE.name: module.PAGE for module in ORDER}

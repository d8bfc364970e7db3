"""A loop in, machine code out; knows no engine."""

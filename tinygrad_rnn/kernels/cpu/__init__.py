"""Loops as machine code for this processor, by LLVM."""

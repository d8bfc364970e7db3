"""A traced step in, a program out."""

"""What is done to a graph before a program is written: each pass a function."""

"""What a program runs on: buffers, and the layout of time."""

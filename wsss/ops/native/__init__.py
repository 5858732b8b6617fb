"""The optional C++ part: its sources, their compilation, and the library that comes of them."""

"""The optional C++ part: crf.cpp, its compilation and its use."""

"""Tables of methods and runs, with what others published beside them."""

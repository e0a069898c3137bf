"""The checks; each test function is one, with an id of its own."""

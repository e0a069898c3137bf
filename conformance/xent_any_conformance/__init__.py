"""What is run to see that a backend is right."""

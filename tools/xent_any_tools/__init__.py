"""The command ``xent-any``, and what it runs beside the conformance kit: the benchmark and the demonstration."""

"""One file per framework, each with an adapter ``BACKEND``; `xent_any` finds them by entry point."""

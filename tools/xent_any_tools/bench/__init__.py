"""``xent-any bench``: ours and the peers side by side, against what memory allows."""

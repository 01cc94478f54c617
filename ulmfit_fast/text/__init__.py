"""From files to batches: reading, tokenizers and their vocabulary, batching."""

"""A training of a moment, for the tests that train: its text and its settings, to which each adds its own."""

TEXT = "".join(f"line {i} of a small text, {i * i} and so on\n" for i in range(120))

SMALL = {
    "hidden_size": 8,
    "embedding_dim": 6,
    "batch_size": 3,
    "bptt": 9,
    "tokenizer": "byte",
    "documents": "line",
    "device": "cpu",
    "precision": "float32",
}

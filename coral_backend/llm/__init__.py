"""The annotators: who labels a text, and how an answer becomes one of the labels."""

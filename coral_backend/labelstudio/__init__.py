"""How do we read from and write to Label Studio? The only room that sees its JSON and its SDK."""

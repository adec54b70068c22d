"""Which programs does CORAL run beside itself? One file per supervised service: Redis, Label Studio."""

"""Token files: Megatron's `.bin/.idx`, their writer, their checksums and stamps."""

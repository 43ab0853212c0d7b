"""`hexareme submit`: the batch script, the job that runs it, and what becomes of it."""

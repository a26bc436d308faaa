"""Object stores: one promise, kept by local files, S3 and memory."""

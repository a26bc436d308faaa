"""What is known about the objects: one SQL schema on SQLite and PostgreSQL."""

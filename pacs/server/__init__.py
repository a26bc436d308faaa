"""The composition root: settings become a running server. Nobody imports it."""

"""Findings to DICOM: every kind of result object, encoded."""

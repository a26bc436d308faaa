"""DICOM's own network protocol (PS3.7, PS3.8), the acceptor's side."""

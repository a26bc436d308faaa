"""A conformance suite for DICOM servers: it knows the wire and the standard, and nothing of the server it judges.

`python -m conformance --dicomweb URL --dimse AET@HOST:PORT` makes its own data, stores it, asks, judges and cleans up.
Every check says which section of the standard it rests on; a check that would demand more than that is a bug here.
"""

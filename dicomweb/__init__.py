"""DICOMweb (PS3.18): the archive over HTTP."""

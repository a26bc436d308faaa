"""Arrays in, arrays out: nothing here knows DICOM, files or the network."""

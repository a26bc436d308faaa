"""The plug-ins that come with m3DICOM: a manifest and a run() each."""

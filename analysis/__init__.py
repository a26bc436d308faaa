"""Analysis beside the archive: plug-ins, tasks, algorithms and their results as DICOM."""

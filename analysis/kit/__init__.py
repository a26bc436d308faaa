"""For those who write plug-ins: a package to start from, and a judge that runs any plug-in as the host would."""

"""Files and folders on disk. Imports ``qa.runtime``."""

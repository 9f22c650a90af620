"""Images in files: folder trees, tars, Hugging Face data sets; decoded and augmented by worker processes."""

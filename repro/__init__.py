"""Published CNN ablation tables as files, rerun with one command."""

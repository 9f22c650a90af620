"""What `repro evaluate` evaluates and measures; `repro/evaluate.py` puts it together. Imports no torch by itself."""

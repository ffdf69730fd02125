"""The one-class family, trained end to end: FCDD, HSC, DSVDD, Deep SAD, BCE, AE (arXiv 2007.01760)."""

"""A page about records, for a paper's appendix: HTML in one file, or Markdown with its pictures."""

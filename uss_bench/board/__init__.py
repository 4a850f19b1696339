"""The board: what the records say, beside what was published, as one table per comparable group.

`boards` computes plain data from records and claims, and everything statistical happens there. Each
renderer (terminal, Markdown, LaTeX, CSV, HTML) turns that data into text and computes nothing.
"""

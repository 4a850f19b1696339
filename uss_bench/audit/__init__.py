"""What differs between protocols and between papers, what each difference costs, and what is wrong.

::

    papers.py        how each paper evaluates, as data: leaderboards/protocols/*.toml
    differences.py   field by field, two protocols or two papers
    effects.py       what a change of one rule does to the scores, from counts and from paired records
    pairs.py         records of the same cell that differ in one field
    habits.py        what the field does by habit, priced with intervals
    orderings.py     what papers print as orderings, tested
    patterns.py      whether an ablation shows the pattern that its paper prints, per reading
    backbones.py     how much of a score is the method, and how much the backbone
    record_checks.py one record against itself
    table_checks.py  records against each other
    claim_checks.py  published claims against the datasets and against each other
    tables.py        all of it as text
"""

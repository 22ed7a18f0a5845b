"""The main job: train the same model with each loss on the same data and say which served.

data     a file or a named data set becomes a table of typed columns, targets and splits
judge    the records of runs become metrics, intervals, a ranking and a verdict
show     what was judged becomes tables in the terminal and a report
run      trains, stores and saves; the whole comparison is run.experiment

Imports point up this list only: data imports none of the others, run all of them. `errors` and `files`, which every
room uses, import none.
"""

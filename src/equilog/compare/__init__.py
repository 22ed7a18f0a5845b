"""The main job: train losses and models on the same data, let them decide in several ways, and say which served.

data     a file or a named data set becomes a table of typed columns, targets and splits
judge    the records of runs become metrics, intervals, a ranking and a verdict
show     what was judged becomes tables in the terminal and a report
run      trains, stores and saves; a contender is run.contenders, the whole comparison run.experiment

Imports point up this list only: data imports none of the others, run all of them. `errors` and `files`, which every
room uses, import none.
"""

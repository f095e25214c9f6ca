"""The paper's experiments, one command each: `decollapse reproduce table1`.

    presets/*.toml   one table or figure a file: its rows, its columns, what was published
    words.toml       what a label such as "MOON + FedDecorr" or "α 0.05" means, as settings of a recipe
    scales.toml      what every run starts from: the paper's protocol, and the small scale laid over it
    datasets.toml    where the data are, and how to get them

    presets.py, words.py, protocol.py   read them
    grid.py          every run of a table;  departures.py  in what they are not the paper's
    pace.py          how long a step takes, measured;  estimate.py  and so all runs;  outline.py  says it
    plan.py          from what a person asks for to a grid with its data
    side_by_side.py  processes that train several runs at once;  training.py  what they do
    folder.py        the folder of a table, which an interrupted one goes on in
    results.py       numbers of finished runs;  writing.py, gains.py  the tables of them;  page.py  one page of these
    times.py         estimate and time taken of each call
    picture.py       the table as a picture
    files.py         table.md, table.csv, table.json and runs.jsonl
    command.py       all of it in order

Adding a table is adding a TOML file.
"""

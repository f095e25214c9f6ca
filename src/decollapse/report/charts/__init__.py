"""The charts: pure functions from groups of runs to plotly figures.

Each is usable by itself, in a notebook as on the page: `accuracy(groups).figure.show()`.
"""

from decollapse.report.charts.diagnosis import attribution, classes_by_rank
from decollapse.report.charts.evolution import spectra_by_round
from decollapse.report.charts.frame import Chart, Stroke, stroke
from decollapse.report.charts.maps import label_maps, per_class
from decollapse.report.charts.rounds import accuracy, dead_dimensions, effective_rank, local_effective_rank, loss
from decollapse.report.charts.spectra import global_spectrum, local_spectra

__all__ = [
    "Chart",
    "Stroke",
    "accuracy",
    "attribution",
    "classes_by_rank",
    "dead_dimensions",
    "effective_rank",
    "global_spectrum",
    "label_maps",
    "local_effective_rank",
    "local_spectra",
    "loss",
    "per_class",
    "spectra_by_round",
    "stroke",
]

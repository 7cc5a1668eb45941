"""Official scores of two published systems, whose predictions are in ../shared."""

# name of the metric's configuration: (data, system, scores)
PUBLISHED = {
    "squad": (
        "dev-v1.1",
        "v1.1-bert-large-ensemble",
        {"exact_match": 86.20624408703878, "f1": 92.19557978351129},
    ),
    "squad_v2": (
        "dev-v2.0",
        "v2.0-nlnet",
        {
            "exact": 75.82750779078582,  # 9,003 of 11,873: 4,127 with and 4,876 without an answer
            "f1": 78.77776770381455,
            "total": 11873,
            "HasAns_exact": 69.61875843454791,
            "HasAns_f1": 75.52773885752195,
            "HasAns_total": 5928,
            "NoAns_exact": 82.01850294365012,
            "NoAns_f1": 82.01850294365012,
            "NoAns_total": 5945,
        },
    ),
}

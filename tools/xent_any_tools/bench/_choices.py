"""Dtypes and kinds of labels that can be asked for; imports nothing, so that the command line knows them everywhere."""

DTYPES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
"""Each dtype's bytes."""

OPTIONS = {
    "index": "index labels",
    "probability": "probability labels",
    "smoothing": "index labels, label_smoothing=0.1",
    "weights": "index labels, class weights",
    "ignored": "index labels, 30 % of them ignored",
}

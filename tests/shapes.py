"""The checker of annotated shapes: an int is a float, as it is for every caller of Python."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

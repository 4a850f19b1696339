"""The Python interface: what ``import uss_bench`` offers, each name imported when it is first used."""

"""Tuners that PEFT lacks, written against its interfaces; these modules import torch and peft."""
